"""Notifications of a running agent, delivered by apprise to a receiver on loopback."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.cli.main import main
from agent.core.errors import ConfigError, SafetyError
from agent.core.events import Kline, Notice, RiskState
from agent.core.strategy import Market, Strategy
from agent.live.app import make_agent
from agent.live.services.notifications.apprise_sender import URLS, AppriseSender, notify_urls
from agent.live.services.notifications.notifier import Notifier
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import read_rows
from agent.system.secret import Secret
from tests.live.conftest import database, quiet_log, sandbox
from tests.support.live import SENTIMENT, handled, living, load_words, settings, until

__all__ = ["database", "quiet_log", "sandbox"]
TOKEN = "t0ps3cr3tt0k3n"

pytest.importorskip("apprise", reason="the extra notify is not installed")


@asynccontextmanager
async def receiver(status: int = 200) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Yield an apprise URL that contains a token, and the list of received messages."""
    arrived: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        arrived.append(json.loads(await request.read()))
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/{tail:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"json://127.0.0.1:{runner.addresses[0][1]}/{TOKEN}", arrived
    finally:
        await runner.cleanup()


async def test_start_trade_kill_and_stop_are_notified(
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with receiver() as (url, arrived):
        monkeypatch.setenv(URLS, url)
        config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, notify={"coalesce": "0s"})
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: "BUY" in said(arrived) or "SELL" in said(arrived))
            await daemon.command("set-strategy", {"params": '{"hold": "2h"}'}, "ann")
            await daemon.command("kill", {"reason": "enough"}, "ann")
            await until(lambda: "risk is HALTED by kill" in said(arrived))
        assert "is live" in said(arrived)
        assert "ended" in said(arrived)
        assert "kill by ann" in said(arrived)
        assert "strategy sentiment decides, by ann" in said(arrived)
        urgent = next(one for one in arrived if "HALTED" in one["message"])
        assert urgent["type"] == "warning"
        assert TOKEN not in str(daemon.config) + str(daemon.status())
    assert TOKEN not in "".join(capfd.readouterr())


class Talking(Strategy):
    """Sends one message of each level on the first bar."""

    def on_start(self, market: Market) -> None:
        self.quiet = False

    def on_kline(self, kline: Kline, market: Market) -> None:
        if not self.quiet and market.risk_state is RiskState.ACTIVE:
            self.quiet = True
            self.notify("volume is thin")
            self.notify("the hedge failed", "error")


async def test_messages_of_the_strategy_are_delivered(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as (url, arrived):
        monkeypatch.setenv(URLS, url)
        strategy = {"name": f"{__name__}:Talking", "params": {}}
        config = settings(sandbox.rest_url, tmp_path, strategy=strategy, notify={"coalesce": "0s"})
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: "error: the hedge failed" in said(arrived))
        assert said(arrived).count("volume is thin") == 1
        urgent = next(one for one in arrived if "the hedge failed" in one["message"])
        assert urgent["type"] == "warning"
        notices = list(read_rows(database, daemon.pipeline.run.id, Notice))
        assert [(one.level, one.text) for one in notices] == [
            ("info", "volume is thin"),
            ("error", "the hedge failed"),
        ]


def said(arrived: list[dict[str, Any]]) -> str:
    return "\n".join(one["message"] for one in arrived)


async def test_an_error_names_the_receiver_without_its_url(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver(status=500) as (url, _):
        monkeypatch.setenv(URLS, url)
        config = settings(sandbox.rest_url, tmp_path, notify={"coalesce": "0s"})
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            notifier = next(one for one in daemon.services.companions if isinstance(one, Notifier))
            await until(lambda: notifier.health.failed_deliveries and handled(daemon) > 5)
            assert TOKEN not in notifier.health.last_error
            assert "address 1" in notifier.health.last_error


async def test_a_hanging_receiver_does_not_block_the_agent(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv(URLS, f"json://127.0.0.1:{port}")
    config = settings(sandbox.rest_url, tmp_path, notify={"coalesce": "0s", "timeout": "1s"})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) > 40)
    server.close()


def test_urls_are_read_from_a_file_of_mode_0600_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URLS, raising=False)
    from agent.config.services import NotifyConfig

    file = tmp_path / "urls"
    file.write_text(f"# mine\njson://127.0.0.1/{TOKEN}\njson://127.0.0.1:81/\n")
    file.chmod(0o600)
    config = NotifyConfig(urls_file=file)
    assert [url.reveal() for url in notify_urls(config)] == [
        f"json://127.0.0.1/{TOKEN}",
        "json://127.0.0.1:81/",
    ]
    file.chmod(0o644)
    with pytest.raises(SafetyError, match="0644"):
        notify_urls(config)


def test_an_invalid_url_is_refused_without_printing_it() -> None:
    with pytest.raises(ConfigError) as error:
        AppriseSender([Secret(f"nosuch://{TOKEN}")], 1.0)
    assert "nosuch" in str(error.value)
    assert TOKEN not in str(error.value)


async def test_notify_test_reports_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tapewire", "notify", "test", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out + printed.err

    async with receiver() as (url, arrived):
        monkeypatch.setenv(URLS, url)
        code, out = await asyncio.to_thread(run, "--json")
        assert (code, arrived[0]["title"]) == (0, "Tapewire: a test"), out
    code, out = await asyncio.to_thread(run)  # the receiver is stopped
    assert code == 1
    assert "not delivered" in out
    assert TOKEN not in out
    monkeypatch.delenv(URLS)
    code, out = await asyncio.to_thread(run)
    assert code == 2
