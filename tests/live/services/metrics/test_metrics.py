"""Metrics of a running agent, requested over HTTP as Prometheus does."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.events import Event
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.pipeline import Pipeline
from agent.live.services.metrics.metrics_server import MetricsServer
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.system.clock import WallClock
from agent.system.latency_histogram import LatencyHistogram
from tests.conftest import ROOT
from tests.live.conftest import database, hasty_start, quiet_log, sandbox
from tests.support.live import SENTIMENT, SYMBOLS, handled, living, load_words, settings, until

__all__ = ["database", "hasty_start", "quiet_log", "sandbox"]

DEPLOY = ROOT / "deploy"
METRICS = {"metrics": {"enabled": True, "port": 0}}


class Asked:
    """HTTP client of the metrics server of `daemon`."""

    def __init__(self, daemon: Daemon) -> None:
        self.server = next(one for one in daemon.services.companions if isinstance(one, MetricsServer))

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            return response.status, await response.text()

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        _, text = await self.get("/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


async def test_metrics_count_what_the_agent_did(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, **METRICS)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        asked = Asked(daemon)
        await until(
            lambda: (
                asked.server.health.state == "live"
                and daemon.pipeline.spans["sentiment to order"]
                and handled(daemon)
            )
        )
        samples = await asked.samples()
        status = daemon.status()
        engine = daemon.pipeline.engine
        assert value(samples, "tapewire_equity") == pytest.approx(engine.portfolio.equity(), rel=0.05)
        assert value(samples, "tapewire_risk_state", state=status.risk.value) == 1
        assert sum(v for (name, _), v in samples.items() if name == "tapewire_risk_state") == 1
        assert value(samples, "tapewire_decisions_total", kind="Order") >= 1
        assert value(samples, "tapewire_events_total", kind="Sentiment") >= 1
        assert value(samples, "tapewire_source_up", source="bybit") == 1
        assert value(samples, "tapewire_feed_up", feed="127.0.0.1") == 1
        assert {labels for name, labels in samples if name == "tapewire_position_value"} == {
            (("symbol", symbol),) for symbol in SYMBOLS
        }
        for name in ("headline_to_sentiment", "sentiment_to_order", "store_write"):
            assert value(samples, f"tapewire_{name}_seconds_count") >= 1
            assert value(samples, f"tapewire_{name}_seconds_sum") > 0
        bars = value(samples, "tapewire_handled_seconds_count", kind="Kline")
        assert 0 < bars <= handled(daemon)
        assert bars == value(samples, "tapewire_handled_seconds_bucket", kind="Kline", le="+Inf")
        assert (await asked.get("/healthz")) == (200, "ok\n")
        await until(lambda: not daemon.status().warming_up)
        assert (await asked.get("/readyz"))[0] == 200


async def test_an_agent_without_its_exchange_is_healthy_and_not_ready(
    database: Database, tmp_path: Path
) -> None:
    config = settings("http://127.0.0.1:9", tmp_path, **METRICS)
    # without a time that the venue confirms
    daemon = make_agent(config, database, load_model=load_words, clock=WallClock())
    async with living(daemon):
        asked = Asked(daemon)
        await until(lambda: asked.server.health.state == "live")
        assert (await asked.get("/healthz"))[0] == 200
        code, text = await asked.get("/readyz")
        assert code == 503
        assert re.match(r"warming up\nbybit is (connecting|waiting|stopped)\n", text)


async def test_an_agent_warms_up_before_it_has_recorded_that_it_does(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = asyncio.Event()
    feed = Pipeline.feed

    async def feed_later(pipeline: Pipeline, *args: Any) -> list[Event]:
        await recorded.wait()
        return await feed(pipeline, *args)

    monkeypatch.setattr(Pipeline, "feed", feed_later)
    config = settings("http://127.0.0.1:9", tmp_path, **METRICS)
    daemon = make_agent(config, database, load_model=load_words, clock=WallClock())
    async with living(daemon):
        asked = Asked(daemon)
        await until(lambda: asked.server.health.state == "live")
        assert not daemon.pipeline.engine.risk.warming_up
        assert (await asked.get("/readyz"))[1].splitlines()[0] == "warming up"
        recorded.set()
        await until(lambda: daemon.pipeline.engine.risk.warming_up)
        assert (await asked.get("/readyz"))[1].splitlines()[0] == "warming up"


async def test_the_agent_is_unhealthy_if_the_core_hangs(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, metrics={**METRICS["metrics"], "stuck_after": "100ms"})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        asked = Asked(daemon)
        await until(lambda: asked.server.health.state == "live")
        with database.write():  # the core's next commit waits for this one, as it would for a disk that hangs
            await until(lambda: daemon.queue.longest_wait > 0.2)
            code, text = await asked.get("/healthz")
        assert (code, text.split()[-3:]) == (503, ["the", "core", "hangs"])


@pytest.mark.parametrize(
    ("bind", "host", "code"),
    [
        ("127.0.0.1", "127.0.0.1:9464", 200),
        ("127.0.0.1", "localhost:9464", 200),
        ("127.0.0.1", "tapewire:9464", 200),  # in allowed_hosts, as a container's name
        ("127.0.0.1", "evil.example", 421),  # its name resolves to this host: DNS rebinding
        ("127.0.0.1", "192.0.2.7:9464", 421),
        ("127.0.0.1", "", 421),
        ("0.0.0.0", "192.0.2.7:9464", 200),
        ("0.0.0.0", "evil.example", 421),
    ],
)
async def test_metrics_are_served_for_known_hosts_only(
    database: Database, tmp_path: Path, bind: str, host: str, code: int
) -> None:
    metrics = {"host": bind, "allowed_hosts": ["tapewire"]}
    config = settings("http://127.0.0.1:9", tmp_path, metrics=METRICS["metrics"] | metrics)
    # without a time that the venue confirms
    daemon = make_agent(config, database, load_model=load_words, clock=WallClock())
    async with living(daemon):
        asked = Asked(daemon)
        await until(lambda: asked.server.health.state == "live")
        for path in ("/metrics", "/healthz"):
            assert (await asked.get(path, {"Host": host}))[0] == code
        samples = await asked.samples()
        assert value(samples, "tapewire_requests_denied_total", listener="metrics") == (
            2 if code == 421 else 0
        )


async def test_open_and_closed_connections_are_counted(database: Database, tmp_path: Path) -> None:
    config = settings("http://127.0.0.1:9", tmp_path, metrics=METRICS["metrics"] | {"connections": 4})
    # without a time that the venue confirms
    daemon = make_agent(config, database, load_model=load_words, clock=WallClock())
    async with living(daemon):
        asked = Asked(daemon)
        await until(lambda: asked.server.health.state == "live")
        writers = [(await asyncio.open_connection("127.0.0.1", asked.server.port))[1] for _ in range(50)]
        samples = await asked.samples()
        assert value(samples, "tapewire_connections_open", listener="metrics") <= 4
        assert (
            value(samples, "tapewire_connections_closed_total", listener="metrics", reason="displaced") >= 46
        )
        assert value(samples, "tapewire_connections_open", listener="control") == 0
        for writer in writers:
            writer.close()


def test_a_histogram_keeps_its_counts_and_its_sum() -> None:
    histogram = LatencyHistogram()
    for milliseconds in (0.05, 0.2, 5.0, 99_999.0):
        histogram.add(milliseconds)
    buckets = histogram.cumulative(10)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert buckets[0][1] == 1
    assert buckets[-1] == (float("inf"), 4)
    assert histogram.total_ms == pytest.approx(100_004.25)


# -- files in deploy/ ----------------------------------------------------------------------------------------


def promtool(*arguments: str, stdin: str | None = None) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [tool, *arguments], input=stdin, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def exposition(sandbox: Sandbox, database: Database, folder: Path) -> str:
    config = settings(sandbox.rest_url, folder, strategy=SENTIMENT, **METRICS)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        asked = Asked(daemon)
        await until(
            lambda: asked.server.health.state == "live" and daemon.pipeline.spans["sentiment to order"]
        )
        return (await asked.get("/metrics"))[1]


async def test_promtool_accepts_the_metrics(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    promtool("check", "metrics", stdin=await exposition(sandbox, database, tmp_path))


def test_promtool_accepts_alerts_and_configuration() -> None:
    promtool("check", "rules", str(DEPLOY / "prometheus" / "alerts.yml"))
    promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    board = json.loads((DEPLOY / "grafana" / "tapewire.json").read_text())
    questions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    questions += [annotation["expr"] for annotation in board["annotations"]["list"]]
    rules = [
        {"record": f"question:{number}", "expr": re.sub(r"\$__\w*interval", "1m", question)}
        for number, question in enumerate(questions)
    ]
    file = tmp_path / "questions.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", str(file))


def test_alerts_pass_their_promtool_tests() -> None:
    promtool("test", "rules", str(DEPLOY / "prometheus" / "alerts_test.yml"))


async def test_dashboard_and_alerts_query_existing_metrics(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    text = await exposition(sandbox, database, tmp_path)
    families = list(text_string_to_metric_families(text))
    known = {sample.name for family in families for sample in family.samples} | {
        f"{family.name}_total" if family.type == "counter" else family.name for family in families
    }  # a counter without label values, and a gauge of an unknown value, have no sample yet
    for file in (DEPLOY / "grafana" / "tapewire.json", DEPLOY / "prometheus" / "alerts.yml"):
        asked = set(re.findall(r"\b(?:tapewire|process)_[a-z_]+\b", file.read_text()))
        assert asked
        assert asked <= known | {"tapewire_run"}, (file.name, asked - known)
