"""A response contains everything up to the time that it states, even in a fast market."""

from __future__ import annotations

import aiohttp

from agent.sandbox import Sandbox, SandboxOptions
from tests.conftest import ROOT


async def test_bars_closed_by_the_response_time_are_complete() -> None:
    options = SandboxOptions(
        klines=(ROOT / "tests/sample_data/BTCUSDT-1m.csv",), speed=20_000, loop=True
    )  # a minute in 3 ms
    async with Sandbox(options) as sandbox, aiohttp.ClientSession() as session:
        series = sandbox.market.quotes["BTCUSDT"].series
        for _ in range(200):
            url = f"{sandbox.rest_url}/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=2"
            async with session.get(url) as response:
                page = await response.json()
            for start, *prices, _, _ in page["result"]["list"]:
                truth = series.bar(series.index_at(int(start)))
                if truth.end <= page["time"]:
                    assert tuple(map(float, prices)) == (truth.open, truth.high, truth.low, truth.close)
