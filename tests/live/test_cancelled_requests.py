"""A request whose timeout expires in the same step of the loop as a cancellation is cancelled, not timed out.

With aiohttp's own timeout the cancellation was lost, and a producer went on after the daemon had stopped it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import agent
from agent.config.bybit import endpoint
from agent.config.execution import TestnetConfig
from agent.config.live import BybitConfig, NewsConfig
from agent.core.events import MINUTE_MS
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.credentials import Credentials
from agent.live.gateway.instrument_rules import fetch_rules
from agent.live.market_data.backfill import KlineHistory
from agent.live.news.destinations import DestinationPolicy
from agent.live.news.fetch import fetch
from agent.live.venue_clock import _TIMEOUT, venue_clock
from agent.system.backoff import Budget
from agent.system.clock import WallClock
from agent.system.secret import Secret

LIMIT = 1.0  # seconds until a request times out


class MuteServer:
    """Accepts connections and never responds; `reached` is set by the first bytes."""

    url: str

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            self.reached.set()
        writer.close()


@pytest.fixture
async def mute() -> AsyncIterator[MuteServer]:
    mute = MuteServer()
    server = await asyncio.start_server(mute.serve, "127.0.0.1", 0)
    mute.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield mute
    server.close()


async def news(url: str) -> Any:
    config = NewsConfig(total_timeout=round(LIMIT * 1000))
    async with DestinationPolicy(url, ()).session(config) as session:
        return await fetch(session, url, config, WallClock())


async def private_request(url: str) -> Any:
    keys = Credentials(Secret("key"), Secret("secret"))
    port = BybitPort(
        TestnetConfig(venue=url, request_timeout=round(LIMIT * 1000)), "linear", keys, WallClock()
    )
    try:
        return await port.positions()
    finally:
        await port.close()


async def klines(url: str) -> Any:
    config = BybitConfig(endpoint=url, rest_timeout=round(LIMIT * 1000))
    assert endpoint(config.endpoint).rest == url
    async with KlineHistory(config, "linear", WallClock(), Budget(1_000_000, 0.0)) as history:
        return await history.fetch("BTCUSDT", MINUTE_MS, WallClock().now() - 10 * MINUTE_MS)


async def trading_rules(url: str) -> Any:
    return await fetch_rules(url, "linear", within=LIMIT)


async def venue_time(url: str) -> Any:
    return await venue_clock(url)


REQUESTS: dict[Callable[[str], Awaitable[Any]], float] = {
    news: LIMIT,
    private_request: LIMIT,
    klines: LIMIT,
    trading_rules: LIMIT,
    venue_time: _TIMEOUT,
}


@pytest.mark.slow
@pytest.mark.parametrize("request_of", REQUESTS, ids=lambda request: request.__name__)
async def test_a_cancellation_is_not_lost_in_a_timeout(
    mute: MuteServer, request_of: Callable[[str], Awaitable[Any]]
) -> None:
    async def attempt() -> Any:
        return await request_of(mute.url)

    task = asyncio.create_task(attempt())
    await mute.reached.wait()
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    time.sleep(REQUESTS[request_of] + 0.1)  # both are due when the loop goes on
    with pytest.raises(asyncio.CancelledError):
        await task


def test_no_request_has_the_limit_of_aiohttp_for_the_whole() -> None:
    root = Path(agent.__file__).parents[1]
    files = [file for folder in ("agent", "models") for file in (root / folder).rglob("*.py")]
    assert len(files) > 100
    given = [
        f"{file.relative_to(root)}: {found}"
        for file in files
        for found in re.findall(r"ClientTimeout\([^)]*total=(?!None)[^,)]*", file.read_text())
    ]
    assert not given
