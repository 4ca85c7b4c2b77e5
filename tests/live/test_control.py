"""Operator commands over a Unix socket of this user; each is journalled before it is handled."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.errors import ConfigError, ModelError, SafetyError, TapewireError, UsageError
from agent.core.events import Command, Order, RiskState, Sentiment
from agent.live.app import make_agent
from agent.live.control_socket import SOCKET, ControlRequest, control_socket, send_request
from agent.live.interfaces.status import Status
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, read_decisions
from tests.support.live import (
    SENTIMENT,
    Words,
    assert_sound,
    handled,
    journal,
    living,
    load_words,
    of,
    settings,
    until,
)


@asynccontextmanager
async def socket_at(folder: Path) -> AsyncIterator[Path]:
    """Control socket whose handler echoes the request; the command `refuse` raises."""

    async def handler(request: ControlRequest, by: str) -> Any:
        if request.do == "refuse":
            raise SafetyError("no", hint="ask nicely")
        return {"do": request.do, "args": request.args, "by": by}

    async with control_socket(folder / SOCKET, handler):
        yield folder / SOCKET


async def tell(where: Path, do: str, **args: str) -> Any:
    return await asyncio.to_thread(send_request, where, ControlRequest(do, args), timeout=20)


async def test_the_socket_has_mode_0600_and_is_removed_on_close(tmp_path: Path) -> None:
    async with socket_at(tmp_path) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        answer = await tell(tmp_path, "status", a="b")
        assert answer == {"do": "status", "args": {"a": "b"}, "by": f"uid {os.geteuid()}"}
    assert not path.exists()


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET))
    left.close()
    async with socket_at(tmp_path):
        assert (await tell(tmp_path, "status"))["do"] == "status"


async def test_the_client_raises_the_servers_exception_with_its_hint(tmp_path: Path) -> None:
    async with socket_at(tmp_path):
        with pytest.raises(SafetyError, match="no") as error:
            await tell(tmp_path, "refuse")
    assert error.value.hint == "ask nicely"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b'{"do": 1}\n',
        b'{"do": "status", "sudo": true}\n',
        b"\xff\xfe\n",
        b"x" * 70_000 + b"\n",
    ],
    ids=["empty", "no JSON", "no object", "no text", "an unknown field", "no UTF-8", "too long"],
)
async def test_a_malformed_request_is_rejected_and_the_next_one_is_served(
    tmp_path: Path, line: bytes
) -> None:
    async with socket_at(tmp_path) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        answer = (
            await asyncio.wait_for(reader.read(1 << 16), 10)
            if len(line) > 1 << 16
            else await reader.readline()
        )
        assert not answer or msgspec.json.decode(answer)["exit_code"] == 2
        writer.close()
        assert (await tell(tmp_path, "status"))["do"] == "status"


async def test_the_error_without_an_agent_names_the_start_command(tmp_path: Path) -> None:
    with pytest.raises(TapewireError, match="no agent is running") as error:
        await tell(tmp_path, "status")
    assert "tapewire run" in error.value.hint


async def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    with pytest.raises(ConfigError, match="at most 107 characters"):
        async with socket_at(folder):
            pass


async def test_pause_flatten_and_resume_are_journalled_and_executed(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy={"name": "buy_and_hold", "params": {}})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        account = daemon.pipeline.engine
        await until(lambda: len(account.portfolio.open) == 2)
        paused = await tell(tmp_path, "pause")
        assert paused["risk"] == "REDUCING"
        await tell(tmp_path, "flatten")
        await until(lambda: not account.portfolio.open)
        assert (await tell(tmp_path, "halt"))["risk"] == "HALTED"
        assert (await tell(tmp_path, "resume"))["risk"] == "ACTIVE"
        with pytest.raises(UsageError, match="unknown command 'warm-up'"):
            await tell(tmp_path, "warm-up")
    events = assert_sound(database, "latest", config)
    words = [event for event in of(Command, events) if event.by == f"uid {os.geteuid()}"]
    assert [word.action for word in words] == ["pause", "flatten", "halt", "resume"]
    orders = [
        item.decision
        for item in read_decisions(database, find_run(database).id)
        if isinstance(item.decision, Order)
    ]
    assert [order.reason for order in orders] == ["buy and hold"] * 2 + ["flatten"] * 2


async def test_a_halt_survives_a_restart(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    for word in ("halt", "status"):
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: handled(daemon) >= 2)  # noqa: B023
            await tell(tmp_path, word)
            assert daemon.pipeline.engine.risk.state is RiskState.HALTED


async def test_the_status_covers_run_positions_producers_feeds_and_queue(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 20 and of(Sentiment, journal(database)))
        status = msgspec.convert(await tell(tmp_path, "status"), Status)
    run = find_run(database)
    assert (status.run, status.strategy, status.pid) == (run.id, "sentiment", os.getpid())
    assert status.model == "starter"
    assert not status.warming_up
    assert status.uptime_s > 0
    assert 0 < status.events <= run.events
    assert [position.symbol for position in status.positions] == list(config.market.symbols)
    assert all(position.mark and position.last_bar for position in status.positions)
    assert {source["name"]: source["state"] for source in status.producers} == dict.fromkeys(
        ("bybit", "rss", "sentiment"), "live"
    )
    assert [(feed.name, feed.state, feed.news > 0) for feed in status.feeds] == [("127.0.0.1", "live", True)]
    assert status.queue.kinds["Kline"].taken >= 20
    assert 0 < status.latencies["Kline"]["p50_ms"] <= status.latencies["Kline"]["p99_ms"]
    assert any("sentiment" in line["what"] for line in status.recent)


async def test_a_model_is_swapped_at_runtime_and_kept_after_a_restart(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    def load(folder: str) -> Words:
        if "bad" in folder:
            raise ModelError(f"{folder} holds no model.onnx")
        return Words(folder)

    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
    daemon = make_agent(config, database, load_model=load, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: of(Sentiment, journal(database)))
        with pytest.raises(TapewireError, match=r"holds no model\.onnx; the old model stays"):
            await tell(tmp_path, "use-model", folder="/bad")
        assert daemon.status().model == "starter"
        with pytest.raises(UsageError, match="needs a folder"):
            await tell(tmp_path, "use-model")
        answer = await tell(tmp_path, "use-model", folder="/new")
        assert answer["model"] == "/new"
        await until(lambda: of(Sentiment, journal(database))[-1].model == "/new")
    again = make_agent(config, database, load_model=load, clock=sandbox.clock)
    async with living(again):
        await until(lambda: again.status().model == "/new")
    events = assert_sound(database, "latest", config)
    story = [
        (event.action, event.args.get("folder")) for event in of(Command, events) if "model" in event.action
    ]
    assert story == [
        ("model-in-use", "starter"),
        ("use-model", "/bad"),
        ("model-refused", "/bad"),
        ("use-model", "/new"),
        ("model-in-use", "/new"),
        ("model-in-use", "/new"),
    ]
    models = [sentiment.model for sentiment in of(Sentiment, events)]
    assert set(models) == {"starter", "/new"}
    assert models == sorted(models, key=["starter", "/new"].index)


async def test_a_strategy_without_headlines_rejects_a_model_swap(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        with pytest.raises(UsageError, match="sma_cross uses no model"):
            await tell(tmp_path, "use-model", folder="/new")
