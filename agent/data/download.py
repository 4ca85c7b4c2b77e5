"""Klines from where they are published into a parquet file: Bybit through ccxt, page by page and resumable; Yahoo by yfinance."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.core.durations import format_duration
from agent.core.errors import ConfigError, DataError, UsageError, VenueError, brief, did_you_mean
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.data.kline_writer import KlineWriter, Row
from agent.system.addresses import is_loopback
from agent.system.backoff import BackoffConfig, delays
from agent.system.clock import iso

if TYPE_CHECKING:
    import pandas as pd

    from agent.data.kline_messages import Page

_FLUSH_ROWS: Final = 50_000
_TRIES: Final = 6
_PASSING: Final = re.compile(r'"retCode":\s*(10000|10016)\b')  # server time-out, server error
_RETRY: Final = BackoffConfig(first=1_000, ceiling=30_000)
_WEEK: Final = 7 * DAY_MS
_SETTLE: Final = 2_000  # ms after its end, Bybit's last trades of a bar have come in
YAHOO_INTERVALS: Final = {
    MINUTE_MS: "1m", 2 * MINUTE_MS: "2m", 5 * MINUTE_MS: "5m", 15 * MINUTE_MS: "15m", 30 * MINUTE_MS: "30m", HOUR_MS: "60m",
    DAY_MS: "1d",
}  # fmt: skip

Progress = Callable[[int], object]
"""Called with the open time (UTC ms) up to which all is fetched."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Closed bars of `interval` ms that open in [`start`, `end`), UTC ms."""

    symbol: str
    interval: int
    start: int
    end: int
    category: Literal["linear", "spot"] = "linear"

    def labels(self, source: str) -> dict[str, str]:
        """What a file of them is labelled with."""
        market = {"category": self.category} if source == "bybit" else {}
        return {"source": source, "symbol": self.symbol, "interval": format_duration(self.interval), **market}


class BybitKlines:
    """Bybit's public kline history of one symbol through ccxt's raw endpoint, which keeps turnover and needs no market list.

    `venue` is mainnet, testnet or the URL of a sandbox on this machine. Use it as an async context manager.
    """

    def __init__(
        self,
        wanted: Wanted,
        venue: str = "mainnet",
        *,
        retry: BackoffConfig = _RETRY,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        import ccxt.async_support as ccxt

        from agent.config.bybit import endpoint, interval_code

        try:
            self._base = endpoint(venue).rest
        except ValueError as error:
            raise UsageError(f"--url: {error}") from None
        self._code = interval_code(wanted.interval)
        self._wanted = wanted
        self._retry = retry
        self._sleep = sleep
        self._exchange: Any = ccxt.bybit(
            {"timeout": 20_000, "options": {"fetchMarkets": {"types": [wanted.category]}}}
        )
        self._exchange.urls["api"] = dict.fromkeys(self._exchange.urls["api"], self._base)
        # a proxy may stand before the world, not before us
        self._exchange.aiohttp_trust_env = not is_loopback(self._base)
        self._ccxt = ccxt

    async def __aenter__(self) -> BybitKlines:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exchange.close()

    async def fetch(self, writer: KlineWriter, progress: Progress = lambda _: None) -> int:
        """Appends the wanted bars that `writer` doesn't have yet, without the running one; the number of impossible rows that
        were left out.

        What was fetched before an error is kept. Raises UsageError for an unknown symbol, DataError where there is nothing in
        the window, VenueError where Bybit can't be reached.
        """
        wanted, interval = self._wanted, self._wanted.interval
        since = -(-max(wanted.start, writer.last + interval if writer.last else 0) // interval) * interval
        if wanted.start < writer.first >= await self._first_listed(wanted.start) + _WEEK:
            raise DataError(
                f"{writer.path} begins at {iso(writer.first)}, and bars can't be put before it",
                hint="name another file with --output",
            )
        rows: list[Row] = []
        unsound = 0
        try:
            while since < wanted.end:
                page = await self._page(since, wanted.end)
                if not page.result.rows and not rows and not writer.last:
                    since = await self._first_listed(since)
                    page = await self._page(since, wanted.end)
                found, bad = self._sound(page, since, wanted.end)
                rows += found
                unsound += bad
                if len(rows) >= _FLUSH_ROWS:
                    writer.append(rows)
                    rows = []
                since += _page_span(interval)
                progress(min(since, wanted.end))
                if since > page.time:
                    break
        finally:
            writer.append(rows)
            writer.finish()
        if not writer.last:
            raise self._nothing()
        return unsound

    async def latest(self, count: int) -> list[Row]:
        """The last `count` closed bars by the venue's clock, whatever window is wanted; fewer where it has fewer.

        Raises as `fetch` does.
        """
        wanted, interval = self._wanted, self._wanted.interval
        now = (await self._ask({"interval": self._code})).time
        rows: list[Row] = []
        for since in range((now // interval - count - 1) * interval, now, _page_span(interval)):
            page = await self._page(since, now)
            rows += self._sound(page, since, now)[0]
        if not rows:
            raise DataError(f"Bybit has no {wanted.category} klines of {wanted.symbol}")
        return rows[-count:]

    def _sound(self, page: Page, since: int, end: int) -> tuple[list[Row], int]:
        """The page's closed bars in the window, in order, and how many are none that can be."""
        from agent.data.kline_messages import is_sound

        interval = self._wanted.interval
        end = min(end, since + _page_span(interval))
        settled = page.time - _SETTLE - interval
        closed = [
            row for row in reversed(page.result.rows) if since <= row.start < end and row.start <= settled
        ]
        sound = [row for row in closed if is_sound(row, interval, page.time)]
        rows = [
            (row.start, row.open, row.high, row.low, row.close, row.volume, row.turnover) for row in sound
        ]
        return rows, len(closed) - len(sound)

    async def _page(self, since: int, end: int) -> Page:
        until = min(since + _page_span(self._wanted.interval), end)
        return await self._ask({"interval": self._code, "start": since, "end": until - 1})

    async def _first_listed(self, since: int) -> int:
        """The beginning of the first week with bars: a symbol may be much younger than the window."""
        weeks = (await self._ask({"interval": "W", "start": since - _WEEK})).result.rows
        first = min((row.start for row in weeks), default=self._wanted.end)
        if first >= self._wanted.end:
            raise self._nothing()
        return max(since, first)

    async def _ask(self, params: dict[str, object]) -> Page:
        from agent.config.bybit import PAGE
        from agent.data.kline_messages import read_page
        from agent.system.untrusted import JSON_DECODE_ERRORS

        ccxt, wanted = self._ccxt, self._wanted
        waits = islice(delays(self._retry, random.Random()), _TRIES - 1)
        while True:
            try:
                answer = await self._exchange.publicGetV5MarketKline(
                    {"category": wanted.category, "symbol": wanted.symbol, "limit": PAGE, **params}
                )
                return read_page(answer)
            except ccxt.BadRequest as error:
                raise UsageError(
                    f"Bybit has no {wanted.category} klines of {wanted.symbol}: {brief(error)}",
                    hint=await self._closest(),
                ) from None
            except (ccxt.ExchangeError, ccxt.NetworkError, *JSON_DECODE_ERRORS) as error:
                if isinstance(error, ccxt.ExchangeError) and not _PASSING.search(str(error)):
                    raise VenueError(f"Bybit refuses klines of {wanted.symbol}: {brief(error)}") from None
                wait = next(waits, None)
                # a ban of the address: asking again makes it longer
                if wait is None or " 403 " in str(error):
                    raise VenueError(
                        f"Bybit can't be reached at {self._base}: {brief(error)}",
                        hint="check the network, then run the same command again: it goes on after the last bar in the file",
                    ) from None
                await self._sleep(wait)

    async def _closest(self) -> str:
        try:
            markets = await self._exchange.load_markets()
        except self._ccxt.BaseError:
            return ""
        symbols = [market["id"] for market in markets.values()]
        return did_you_mean(self._wanted.symbol, symbols, most=3) or "symbols look like BTCUSDT"

    def _nothing(self) -> DataError:
        wanted = self._wanted
        return DataError(
            f"Bybit has no {wanted.category} klines of {wanted.symbol} that opened from {iso(wanted.start)} to {iso(wanted.end)}"
        )


def yahoo_klines(wanted: Wanted, now: int) -> list[Row]:
    """The wanted bars that have closed at `now` (UTC ms), adjusted for splits and dividends (`auto_adjust`), from Yahoo.

    Raises UsageError where yfinance isn't installed or Yahoo has no such interval, VenueError where Yahoo can't be reached,
    DataError where it has nothing.
    """
    if (interval := YAHOO_INTERVALS.get(wanted.interval)) is None:
        names = ", ".join(map(format_duration, YAHOO_INTERVALS))
        raise ConfigError(
            f"Yahoo has no klines of {format_duration(wanted.interval)}", hint=f"one of {names}"
        )
    try:
        import pandas as pd
        import yfinance as yf
    except ImportError:
        raise UsageError(
            "--source yahoo needs yfinance, which is not installed", hint='pip install "tapewire[equities]"'
        ) from None
    begin, end = (
        pd.Timestamp(moment, unit="ms", tz="UTC") for moment in (wanted.start - DAY_MS, wanted.end + DAY_MS)
    )
    yf.config.debug.hide_exceptions = False
    try:
        frame = yf.Ticker(wanted.symbol).history(
            start=begin, end=end, interval=interval, auto_adjust=True, actions=False
        )
    except (yf.exceptions.YFException, OSError) as error:
        raise VenueError(
            f"Yahoo gives no klines of {wanted.symbol}: {brief(error)}", hint="check symbol and connection"
        ) from None
    rows = [row for row in yahoo_rows(frame, wanted.interval, now) if wanted.start <= row[0] < wanted.end]
    if not rows:
        raise DataError(
            f"Yahoo has no klines of {wanted.symbol} that opened from {iso(wanted.start)} to {iso(wanted.end)}"
        )
    return rows


def yahoo_rows(frame: pd.DataFrame, interval: int, now: int) -> list[Row]:
    """The closed bars of a frame as yfinance makes it: an aware index, and Open, High, Low, Close, Volume.

    A daily bar is of its session's date: it opens at that date's 00:00 UTC, and so is known at the next, after every close.
    High and low are widened to open and close where adjusting has rounded them apart; rows without a price are dropped.
    """
    import pandas as pd

    frame = frame.dropna(subset=["Open", "High", "Low", "Close"])
    index = pd.DatetimeIndex(frame.index)
    index = (
        index.tz_localize(None).normalize()
        if interval >= DAY_MS
        else index.tz_convert("UTC").tz_localize(None)
    )
    starts = index.astype("datetime64[ms]").astype("int64").tolist()
    values = (frame[name].astype(float).tolist() for name in ("Open", "High", "Low", "Close", "Volume"))
    return [
        (start, opened, max(high, opened, close), min(low, opened, close), close, volume, nan)
        for start, opened, high, low, close, volume in zip(starts, *values, strict=True)
        if start + interval <= now
    ]


def default_output(wanted: Wanted) -> Path:
    """Where a download goes unless it is told otherwise."""
    return Path("var") / "klines" / f"{wanted.symbol}-{format_duration(wanted.interval)}.parquet"


def _page_span(interval: int) -> int:
    from agent.config.bybit import PAGE

    return PAGE * interval
