"""Klines for scripts: from a loopback server with Bybit's API, and from files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pandas as pd
import pytest
from aiohttp.test_utils import TestServer

from agent.core.errors import UsageError
from agent.data.frames import resample
from agent.data.loaders import BybitDataLoader, FileDataLoader
from tests.support.bybit_server import MINUTE, Market

T0 = 1_704_067_200_000


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    """A listed market whose last bar is open."""
    market = Market("BTCUSDT", listed=T0, now=T0 + 2_500 * MINUTE + 30_000)
    server = TestServer(market.app())
    await server.start_server()
    market.base_url = str(server.make_url(""))
    yield market
    await server.close()


async def klines(market: Market, limit: int, symbol: str = "btcusdt") -> pd.DataFrame:
    return await asyncio.to_thread(BybitDataLoader(market.base_url).get_klines, symbol, "1m", limit)


@pytest.mark.parametrize(
    ("limit", "count"), [(1, 1), (200, 200), (1_000, 1_000), (2_400, 2_400), (9_999, 2_500)]
)
async def test_the_last_closed_bars_by_the_venues_clock(market: Market, limit: int, count: int) -> None:
    frame = await klines(market, limit)
    assert list(frame.columns) == ["open", "high", "low", "close", "volume", "turnover"]
    assert frame.attrs["symbol"] == "BTCUSDT"
    starts = frame.index.astype("datetime64[ms, UTC]").astype("int64")
    assert starts.tolist() == [T0 + number * MINUTE for number in range(2_500 - count, 2_500)]
    assert frame["open"].iloc[-1] == float(market.row(T0 + 2_499 * MINUTE)[1])


async def test_an_unknown_symbol_is_a_usage_error(market: Market) -> None:
    with pytest.raises(UsageError, match="no linear klines of BTCUSDTT"):
        await klines(market, 10, "BTCUSDTT")


def test_files_are_resampled_to_complete_longer_bars() -> None:
    loader = FileDataLoader()
    fine, coarse = loader.get_klines("BTCUSDT", "1m", 10_000), loader.get_klines("BTCUSDT", "1h", 10_000)
    assert len(coarse) == 36
    hour = fine.loc["2025-03-03T05:00Z":"2025-03-03T05:59Z"]  # type: ignore[misc]
    row = coarse.loc["2025-03-03T05:00Z"]
    assert len(hour) == 60
    expected = [
        hour["open"].iloc[0],
        hour["high"].max(),
        hour["low"].min(),
        hour["close"].iloc[-1],
        hour["volume"].sum(),
    ]
    assert row[["open", "high", "low", "close", "volume"]].tolist() == pytest.approx(expected)
    assert len(loader.get_klines("btcusdt", "1h", 5)) == 5


@pytest.mark.parametrize(
    ("cut", "count"), [((0, 2_160), 36), ((1, 2_160), 35), ((0, 2_159), 35), ((30, 90), 0)]
)
def test_incomplete_bars_are_left_out(cut: tuple[int, int], count: int) -> None:
    fine = FileDataLoader().get_klines("BTCUSDT", "1m", 10_000).iloc[slice(*cut)]
    assert len(resample(fine, MINUTE, 60 * MINUTE)) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SOLUSDT", "1h", 10), "no file of SOLUSDT"),
        (("BTCUSDT", "90s", 10), "don't make up 90s"),
        (("BTCUSDT", "soon", 10), "interval: "),
        (("BTCUSDT", "1h", 0), "limit is 0"),
    ],
)
def test_requests_that_files_cannot_satisfy_are_usage_errors(
    arguments: tuple[str, str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        FileDataLoader().get_klines(*arguments)
