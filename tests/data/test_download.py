"""Download of klines: ccxt against a loopback server, and frames as yfinance returns them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from aiohttp.test_utils import TestServer

from agent.core.errors import ConfigError, DataError, StoreError, UsageError, VenueError
from agent.core.events import DAY_MS, HOUR_MS, Gap, Kline
from agent.data.download import BybitKlines, KlineRequest, yahoo_klines, yahoo_rows
from agent.data.kline_writer import KlineWriter
from agent.data.klines import KlineFile
from tests.support.bybit_server import MINUTE, Market
from tests.support.command_line import run_command

T0 = 1_704_067_200_000  # 2024-01-01, a Monday
LABELS = {"source": "bybit", "symbol": "BTCUSDT"}


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    """A listed market whose last bar is open."""
    market = Market("BTCUSDT", listed=T0, now=T0 + 2_500 * MINUTE + 30_000)
    server = TestServer(market.app())
    await server.start_server()
    market.base_url = str(server.make_url(""))
    yield market
    await server.close()


async def fetch(
    market: Market, output: Path, start: int = T0, end: int = T0 + DAY_MS * 30, symbol: str = "BTCUSDT"
) -> int:
    waits: list[float] = []

    async def no_wait(seconds: float) -> None:
        waits.append(seconds)

    wanted = KlineRequest(symbol, MINUTE, start, end)
    async with BybitKlines(wanted, market.base_url, sleep=no_wait) as klines:
        return await klines.fetch(KlineWriter(output, wanted.labels("bybit")))


def starts(path: Path) -> list[int]:
    return [
        (event.start - T0) // MINUTE
        for event in KlineFile(path, "BTCUSDT", MINUTE)
        if isinstance(event, Kline)
    ]


async def test_pages_are_joined_without_the_open_bar(market: Market, tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m.parquet"
    assert await fetch(market, path) == 0
    assert starts(path) == list(range(2_500))
    first = next(iter(KlineFile(path)))
    assert isinstance(first, Kline)
    assert [
        str(value) for value in (first.start, first.open, first.high, first.low, first.close)
    ] == market.row(T0)[:5]
    assert first.turnover == pytest.approx(3.5 * first.open)
    assert all(ask["limit"] == "1000" and ask["category"] == "linear" for ask in market.asked)


async def test_a_second_download_continues_after_the_last_bar(market: Market, tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m.parquet"
    await fetch(market, path, end=T0 + 100 * MINUTE)
    assert starts(path) == list(range(100))
    market.asked.clear()
    await fetch(market, path)
    assert starts(path) == list(range(2_500))
    assert int(market.asked[0]["start"]) == T0 + 100 * MINUTE
    market.now += 10 * MINUTE
    await fetch(market, path)
    assert starts(path) == list(range(2_510))
    assert sorted(tmp_path.iterdir()) == [path]


async def test_earlier_bars_are_not_added_to_a_file(market: Market, tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m.parquet"
    market.now = T0 + 30 * DAY_MS
    begin = T0 + 20 * DAY_MS
    await fetch(market, path, start=begin, end=begin + 5 * MINUTE)
    with pytest.raises(DataError, match="begins at 2024-01-21T00:00:00Z, and earlier bars can't be added"):
        await fetch(market, path)
    assert len(starts(path)) == 5


async def test_a_symbol_listed_within_the_window_takes_few_requests(market: Market, tmp_path: Path) -> None:
    for _ in range(2):  # a second download of the same window continues
        await fetch(market, tmp_path / "x.parquet", start=T0 - 4 * 365 * DAY_MS)
        assert starts(tmp_path / "x.parquet") == list(range(2_500))
    assert len(market.asked) < 12


async def test_missing_bars_are_gaps_and_invalid_bars_are_left_out(market: Market, tmp_path: Path) -> None:
    # more than one page
    market.missing = frozenset(T0 + minute * MINUTE for minute in range(1_000, 2_100))
    market.impossible = frozenset({T0 + 10 * MINUTE})
    path = tmp_path / "BTCUSDT-1m.parquet"
    assert await fetch(market, path) == 1
    gaps = [
        ((gap.start - T0) // MINUTE, (gap.end - T0) // MINUTE)
        for gap in KlineFile(path)
        if isinstance(gap, Gap)
    ]
    assert gaps == [(10, 11), (1_000, 2_100)]


async def test_transient_failures_are_retried_and_lasting_ones_keep_fetched_bars(
    market: Market, tmp_path: Path
) -> None:
    path = tmp_path / "BTCUSDT-1m.parquet"
    market.failures = [503, 502, 500, 200, 429]
    await fetch(market, path, end=T0 + 50 * MINUTE)
    assert starts(path) == list(range(50))
    market.failures = [503] * 6
    with pytest.raises(VenueError, match=r"can't be reached at http://127\.0\.0\.1") as error:
        await fetch(market, path)
    assert "run the same command again" in error.value.hint
    assert starts(path) == list(range(50))
    await fetch(market, path)
    assert starts(path) == list(range(2_500))


async def test_a_banned_address_sends_no_further_request(market: Market, tmp_path: Path) -> None:
    market.failures = [403] * 6
    with pytest.raises(VenueError, match="403"):
        await fetch(market, tmp_path / "x.parquet")
    assert len(market.asked) == 1
    assert list(tmp_path.iterdir()) == []


async def test_the_error_for_an_unknown_symbol_suggests_the_closest(market: Market, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no linear klines of BTCUSD:") as error:
        await fetch(market, tmp_path / "x.parquet", symbol="BTCUSD")
    assert error.value.hint == "did you mean BTCUSDT?"
    assert {ask["category"] for ask in market.asked} == {"linear"}  # no other market list was loaded


async def test_a_window_without_bars_and_a_closed_port_are_errors(market: Market, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Bybit has no linear klines of BTCUSDT that opened from 2023"):
        await fetch(market, tmp_path / "x.parquet", start=T0 - 20 * DAY_MS, end=T0 - 10 * DAY_MS)
    gone = Market("BTCUSDT", T0, T0, base_url="http://127.0.0.1:9")
    with pytest.raises(VenueError, match=r"can't be reached at http://127\.0\.0\.1:9"):
        await fetch(gone, tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"--url: 'https://example\.org' is neither"):
        BybitKlines(KlineRequest("BTCUSDT", MINUTE, 0, 1), "https://example.org")
    with pytest.raises(ConfigError, match="Bybit has no klines of 7m"):
        BybitKlines(KlineRequest("BTCUSDT", 7 * MINUTE, 0, 1))


async def test_the_command_downloads_and_reports(market: Market, tmp_path: Path) -> None:
    market.missing = frozenset({T0 + 7 * MINUTE})
    path = tmp_path / "BTCUSDT-1m.parquet"
    command = [
        "download",
        "klines",
        "btcusdt",
        "--from",
        "2024-01-01",
        "--to",
        "2024-01-01T01:00Z",
        "--url",
        market.base_url,
    ]
    result = await asyncio.to_thread(run_command, [*command, "--output", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["symbol"], found["rows"], found["gaps"], found["missing"], found["unsound"]) == (
        "BTCUSDT",
        59,
        1,
        1,
        0,
    )
    wrong = await asyncio.to_thread(run_command, [*command[:5], "--to", "2023-01-01"])
    assert isinstance(wrong.exception, UsageError)
    assert "is not before --to 2023-01-01" in str(wrong.exception)


# -- the writer ----------------------------------------------------------------------------------------------


def rows(*minutes: int) -> list[tuple[int, float, float, float, float, float, float]]:
    return [(T0 + minute * MINUTE, 10.0, 12.0, 9.0, 11.0, 5.0, 55.0) for minute in minutes]


def test_appended_bars_survive_a_stop_at_any_point(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m.parquet"
    KlineWriter(path, LABELS).append(rows(0, 1, 2))  # stopped before finish: only a part exists
    assert not path.exists()
    (tmp_path / f".{path.name}.unfinished").write_bytes(b"half-writt")
    second = KlineWriter(path, LABELS)
    assert second.last == T0 + 2 * MINUTE
    second.append(rows(3, 4))
    kept = {part: part.read_bytes() for part in tmp_path.glob(".*.part")}
    second.finish()
    for part, content in kept.items():  # stopped between joining and deleting: the parts still exist
        part.write_bytes(content)
    third = KlineWriter(path, LABELS)
    third.append(rows(5))
    third.finish()
    assert starts(path) == [0, 1, 2, 3, 4, 5]
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_file_with_other_data_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m.parquet"
    writer = KlineWriter(path, LABELS)
    writer.append(rows(0))
    writer.finish()
    before = path.read_bytes()
    with pytest.raises(DataError, match="holds bybit BTCUSDT, not bybit ETHUSDT"):
        KlineWriter(path, {**LABELS, "symbol": "ETHUSDT"})
    path.write_bytes(before[:-50])
    with pytest.raises(DataError, match="is damaged"):
        KlineWriter(path, LABELS)
    with pytest.raises(ValueError, match="is not after"):
        writer.append(rows(0))


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't be written"):
        KlineWriter(tmp_path / "file" / "BTCUSDT.parquet", LABELS).append(rows(0))


# -- Yahoo ---------------------------------------------------------------------------------------------------


def frame(index: pd.DatetimeIndex) -> pd.DataFrame:
    size = len(index)
    return pd.DataFrame(
        {
            "Open": [10.0] * size,
            "High": [12.0] * size,
            "Low": [9.0] * size,
            "Close": [11.0] * size,
            "Volume": [5] * size,
        },
        index=index,
    )


def test_a_daily_bar_has_its_sessions_date_and_is_available_after_the_close() -> None:
    # includes a clock change
    sessions = pd.DatetimeIndex(["2024-03-08", "2024-03-11", "2024-03-12"], tz="America/New_York")
    midnight = 1_709_856_000_000  # 2024-03-08 UTC
    found = yahoo_rows(frame(sessions), DAY_MS, now=midnight + 5 * DAY_MS - 1)
    assert [(row[0] - midnight) // DAY_MS for row in found] == [0, 3]  # the session of the 12th is not over
    assert found[0][1:6] == (10.0, 12.0, 9.0, 11.0, 5.0)


def test_hourly_bars_keep_their_time_without_missing_prices_and_rounding_errors() -> None:
    hours = pd.DatetimeIndex(
        ["2024-01-02T09:30", "2024-01-02T10:30", "2024-01-02T11:30"], tz="America/New_York"
    )
    data = frame(hours)
    data.loc[hours[1], "Close"] = float("nan")
    data.loc[hours[2], "High"] = 10.999999999
    found = yahoo_rows(data, HOUR_MS, now=T0 + 10 * DAY_MS)
    assert [row[0] for row in found] == [
        T0 + DAY_MS + 14 * HOUR_MS + 30 * MINUTE,
        T0 + DAY_MS + 16 * HOUR_MS + 30 * MINUTE,
    ]
    assert found[1][2] == 11.0


def test_yahoo_bars_are_read_back_without_gaps(tmp_path: Path) -> None:
    path = tmp_path / "SPY-1d.parquet"
    sessions = pd.bdate_range("2024-01-02", periods=30, tz="America/New_York")
    writer = KlineWriter(path, {"source": "yahoo", "symbol": "SPY"})
    for _ in range(2):  # rewritten each time, since dividends change earlier adjusted prices
        writer.rewrite(yahoo_rows(frame(sessions), DAY_MS, now=T0 + 300 * DAY_MS))
    description = KlineFile(path, interval=DAY_MS, around_the_clock=False).describe()
    assert (description["symbol"], description["rows"], description["gaps"]) == ("SPY", 30, 0)
    assert pq.ParquetFile(path).schema_arrow.metadata == {b"source": b"yahoo", b"symbol": b"SPY"}


def test_errors_for_missing_yfinance_or_interval_have_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="Yahoo has no klines of 4h"):
        yahoo_klines(KlineRequest("SPY", 4 * HOUR_MS, 0, DAY_MS), now=DAY_MS)
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(UsageError, match="not installed") as error:
        yahoo_klines(KlineRequest("SPY", DAY_MS, 0, DAY_MS), now=DAY_MS)
    assert "tapewire[equities]" in error.value.hint
