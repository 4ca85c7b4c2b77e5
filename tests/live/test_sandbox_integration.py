"""Sandbox and agent as two programs: the agent uses the sandbox's clock and stores feed statistics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from agent.live.app import make_agent
from agent.live.feed_health import read_feed_health
from agent.live.venue_clock import venue_clock
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run
from agent.system.clock import ScaledClock, WallClock
from tests.live.test_commands import start
from tests.support.live import (
    PATIENCE,
    SAMPLES,
    SENTIMENT,
    handled,
    living,
    load_words,
    options,
    settings,
    until,
)


async def test_the_agent_uses_the_sandboxs_clock() -> None:
    async with Sandbox(options(speed=600)) as sandbox:
        clock = await venue_clock(sandbox.rest_url)
        assert isinstance(clock, ScaledClock)
        begun = sandbox.clock.now()
        await until(lambda: sandbox.clock.now() > begun + 60_000)
        assert abs(clock.now() - sandbox.clock.now()) < 30_000  # 50 ms of the machine's time


async def test_at_speed_1_the_clock_is_the_machines() -> None:
    async with Sandbox(options(speed=1)) as sandbox:
        assert isinstance(await venue_clock(sandbox.rest_url), WallClock)


@pytest.mark.parametrize("endpoint", ["mainnet", "https://api-testnet.example", "http://127.0.0.1:1"])
async def test_the_clock_is_the_machines_if_the_venue_is_not_a_sandbox(endpoint: str) -> None:
    assert isinstance(await venue_clock(endpoint), WallClock)


async def test_an_invalid_response_of_a_sandbox_is_rejected() -> None:
    app = web.Application()

    async def other(request: web.Request) -> web.Response:
        return web.json_response({"speed": "fast"})

    app.router.add_get("/_sandbox/state", other)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        assert isinstance(await venue_clock(f"http://127.0.0.1:{port}"), WallClock)
    finally:
        await runner.cleanup()


async def test_feed_statistics_are_stored(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT, live={"record_health": "50ms"})
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 10)
        run = daemon.pipeline.run.id
        await until(lambda: read_feed_health(database, run))
    known = {one.name: one for one in read_feed_health(database, find_run(database).id)}
    assert set(known) == {"bybit", "sentiment", config.news.feeds[0].label}
    assert known["bybit"].messages >= 10
    assert known[config.news.feeds[0].label].connects > 0


@pytest.mark.slow
async def test_the_two_commands_run_at_sixty_times_real_time(tmp_path: Path) -> None:
    venue = await start(
        "sandbox",
        "--port",
        "0",
        "--speed",
        "60",
        "--json",
        "--klines",
        SAMPLES / "BTCUSDT-1m.csv",
        "--symbol",
        "BTCUSDT",
    )
    try:
        assert venue.stdout is not None
        async with asyncio.timeout(PATIENCE):
            ready = json.loads(await venue.stdout.readline())
        path = tmp_path / "config.toml"
        path.write_text(
            '[market]\nsymbols = ["BTCUSDT"]\n[strategy]\nname = "sma_cross"\n'
            f'[bybit]\nendpoint = "{ready["rest"]}"\n'
            f'[live]\nfolder = "{tmp_path}"\n[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n'
            "[dashboard]\nenabled = false\n"
        )
        agent = await start("run", "--config", path, "--seconds", "6", "--json")
        async with asyncio.timeout(2 * PATIENCE):
            said, errors = await agent.communicate()
        assert agent.returncode == 0, errors.decode()
        # 200 bars of history, and live ones of a second each
        assert json.loads(said)["events"] > 205, errors.decode()
        after = await start("status", "--config", path, "--json")
        said, errors = await after.communicate()
        assert after.returncode == 1
        word = json.loads(said)
        assert not word["running"]
        assert word["feeds"][0]["name"] == "bybit"
        assert "no agent is running" in errors.decode()
    finally:
        venue.terminate()
        await venue.wait()
