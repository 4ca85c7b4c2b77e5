"""What an answer says and the time that it states belong together, however fast the market is."""

from __future__ import annotations

import aiohttp

from agent.sandbox import Sandbox, SandboxOptions
from tests.conftest import ROOT


async def test_bars_that_are_over_by_the_stated_time_are_whole() -> None:
    # a minute in 3 ms
    options = SandboxOptions(klines=(ROOT / "tests/sample_data/BTCUSDT-1m.csv",), speed=20_000, loop=True)
    async with Sandbox(options) as sandbox, aiohttp.ClientSession() as session:
        tape = sandbox.market.quotes["BTCUSDT"].tape
        for _ in range(200):
            url = f"{sandbox.rest_url}/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=2"
            async with session.get(url) as response:
                page = await response.json()
            for start, *prices, _, _ in page["result"]["list"]:
                truth = tape.bar(tape.index_at(int(start)))
                if truth.end <= page["time"]:
                    assert tuple(map(float, prices)) == (truth.open, truth.high, truth.low, truth.close)
