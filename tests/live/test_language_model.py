"""The running agent with a language model at a server: nothing waits for it, and everything is recorded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from agent.cli.status_output import show
from agent.config import Config
from agent.core.errors import ModelError
from agent.core.events import Kline, News, Provenance, Sentiment
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.formatting import describe
from agent.live.model_loader import model_loader
from agent.live.services.metrics.prometheus import AgentMetrics
from agent.live.system_check import run_checks
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.prompts import read_prompts
from agent.store.queries import find_run, read_rows
from tests.conftest import ROOT
from tests.models.tiny_model import write_tiny
from tests.support.live import SENTIMENT, handled, journal, living, of, settings, until
from tests.support.llm_server import Fault, LlmServer, without_logprobs


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer() as running:
        yield running


def config_for(sandbox: Sandbox, folder: Path, path: str, **llm: Any) -> Config:
    budget = llm.pop("budget", {})
    own = {"fallback": str(write_tiny(folder / "local")), "budget": budget} | llm
    return settings(sandbox.rest_url, folder, strategy=SENTIMENT, model={"path": path, "threads": 1}, llm=own)


def agent_for(config: Config, sandbox: Sandbox, database: Database) -> Daemon:
    return make_agent(config, database, load_model=model_loader(config, database), clock=sandbox.clock)


async def test_answers_are_journalled_with_their_provenance_and_a_replay_asks_nothing(
    sandbox: Sandbox, database: Database, tmp_path: Path, server: LlmServer
) -> None:
    daemon = agent_for(config_for(sandbox, tmp_path, server.path), sandbox, database)
    async with living(daemon):
        await until(lambda: len(of(Sentiment, journal(database))) >= 5)
    await asyncio.get_running_loop().shutdown_default_executor()  # the last batch has ended
    asked = len(server.requests)
    found = of(Sentiment, journal(database))
    assert {one.provenance.model for one in found if one.provenance} == {"tiny:1b"}
    assert all(one.provenance and one.provenance.answers for one in found)
    (prompt,) = {one.provenance.prompt for one in found if one.provenance}
    assert prompt in read_prompts(database, [prompt])
    run = find_run(database)
    assert list(read_rows(database, run.id, Sentiment)) == found
    assert verify(database, run).identical
    assert len(server.requests) == asked


async def test_a_slow_server_delays_no_bar_and_not_the_end(
    sandbox: Sandbox, database: Database, tmp_path: Path, server: LlmServer
) -> None:
    """Every request would take a minute; the agent stops within the time of one request."""
    server.script = lambda _: Fault("slow", seconds=60.0)
    config = config_for(sandbox, tmp_path, server.path, request_timeout="2s", deadline="1m")
    daemon = agent_for(config, sandbox, database)
    async with living(daemon):
        await until(lambda: server.requests)
        before = handled(daemon)
        await until(lambda: handled(daemon) >= before + 20)
        assert not of(Sentiment, journal(database))
        began = time.monotonic()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert time.monotonic() - began < 10
    assert of(Kline, journal(database))


async def test_the_local_model_answers_for_a_server_that_fails_and_the_user_sees_why(
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    server: LlmServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.script = lambda _: Fault("status", status=500)
    config = config_for(sandbox, tmp_path, server.path, deadline="300ms")
    daemon = agent_for(config, sandbox, database)
    async with living(daemon):
        await until(lambda: len(of(Sentiment, journal(database))) >= 3)
        status = daemon.status()
        (row,) = [row for row in status.producers if row["name"] == "sentiment"]
        (counters,) = row["llm"]
        metrics = generate_latest(AgentMetrics(daemon).registry()).decode()
    found = of(Sentiment, journal(database))
    assert all(one.provenance and one.provenance.fallback for one in found)
    assert not any(one.abstained for one in found if one.bullish != one.bearish)
    assert counters["answered"] == 0
    assert sum(counters["fallbacks"].values()) == counters["asked"] >= 3
    show(status)
    shown = capsys.readouterr().out
    assert "language model tiny:1b by" in shown
    assert "fallback (" in shown
    assert 'tapewire_llm_headlines_total{cause="deadline",model="tiny:1b",outcome="fallback"}' in metrics
    assert 'tapewire_llm_requests_total{model="tiny:1b"}' in metrics


async def test_beyond_its_budget_the_model_abstains(
    sandbox: Sandbox, database: Database, tmp_path: Path, server: LlmServer
) -> None:
    config = config_for(sandbox, tmp_path, server.path, budget={"requests": 2})
    daemon = agent_for(config, sandbox, database)
    async with living(daemon):
        await until(lambda: len(of(Sentiment, journal(database))) >= 4)
        (counters,) = (own for row in daemon.status().producers for own in row.get("llm", ()))
    found = of(Sentiment, journal(database))
    assert len(server.requests) == 2
    assert sum(not one.abstained for one in found) == 2
    assert counters["abstained"]["budget"] >= 2
    assert {one.provenance.fallback for one in found if one.abstained and one.provenance} == {
        "budget of 2 requests an hour is spent"
    }


async def test_the_running_agent_switches_to_a_language_model_and_back(
    sandbox: Sandbox, database: Database, tmp_path: Path, server: LlmServer
) -> None:
    local = str(write_tiny(tmp_path / "first"))
    daemon = agent_for(config_for(sandbox, tmp_path, local), sandbox, database)
    async with living(daemon):
        first = daemon.status().model
        result = await daemon.command("use-model", {"folder": server.path}, by="test")
        assert result["folder"] == server.path
        await until(lambda: any(one.provenance for one in of(Sentiment, journal(database))))
        with pytest.raises(ModelError, match=r"llm\.allow_hosts.*the old model stays"):
            await daemon.command("use-model", {"folder": "openai:https://api.example.com/v1#big"}, by="test")
        assert daemon.status().model == result["model"]
        await daemon.command("use-model", {"folder": local}, by="test")
        assert daemon.status().model == first
        count = len(of(News, journal(database)))
        await until(lambda: len(of(News, journal(database))) > count)
        await until(lambda: not daemon.pipeline.memory.unscored)
    assert of(Sentiment, journal(database))[-1].provenance is None
    assert verify(database, find_run(database)).identical


def test_a_reason_is_shown_on_one_line_without_control_characters() -> None:
    provenance = Provenance("m", "0" * 64, 1, ("bullish",), "deadline\n", "the fund\x1b[2J\nbuys [bold]")
    sentiment = Sentiment("n1", 1, 1, 0.1, 0.1, 0.8, "m", provenance=provenance)
    told = describe(sentiment)
    assert (told["fallback"], told["reason"]) == ("deadline", "the fund[2J buys [bold]")


@pytest.mark.slow
def test_the_agent_needs_no_torch() -> None:
    code = (
        "import sys, agent.live.app, agent.live.model_loader, models.sentiment.open_scorer, "
        "models.sentiment.llm.llm_scorer; print(sorted({'torch', 'peft'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("prepare", "llm", "ok", "told"),
    [
        (lambda server: None, {}, True, "tiny:1b answers by log-probabilities, knowledge cutoff unknown"),
        (
            lambda server: setattr(server, "model", without_logprobs()),
            {"samples": 3, "cutoffs": {"tiny:1b": "2025-02-28"}},
            True,
            "by 3 answers in JSON (the server sends no log-probabilities), knowledge cutoff 2025-02-28",
        ),
        (
            lambda server: setattr(server, "listed", ["other:7b"]),
            {},
            True,
            "not in the server's list of models",
        ),
        (
            lambda server: (
                setattr(server, "listed", ["other:7b"]),
                setattr(server, "script", lambda _: Fault("status", status=404)),
            ),
            {},
            False,
            "has no model tiny:1b, but other:7b",
        ),
        (
            lambda server: setattr(server, "script", lambda _: Fault("status", status=500)),
            {"deadline": "200ms"},
            False,
            "gives no answer",
        ),
        (lambda server: server.__exit__(None, None, None), {}, False, "can't be reached"),
    ],
    ids=["sound", "without logprobs", "not listed", "no such model", "no answer", "no server"],
)
async def test_the_system_check_tests_the_server(
    sandbox: Sandbox, tmp_path: Path, prepare: Any, llm: dict[str, Any], ok: bool, told: str
) -> None:
    with LlmServer() as server:
        prepare(server)
        config = config_for(sandbox, tmp_path, server.path, **llm)
        (check,) = [one for one in await run_checks(config, sandbox.clock) if one.name == "model"]
    assert check.ok == ok, check
    assert told in check.found
    assert ok or check.hint
