"""Download of klines into a parquet file: from Bybit through ccxt, resumable; from Yahoo through yfinance."""

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
from agent.core.events import DAY_MS, MINUTE_MS
from agent.data.kline_writer import KlineRow, KlineWriter
from agent.system.addresses import is_loopback
from agent.system.backoff import BackoffConfig, delays
from agent.system.clock import iso
from agent.system.http_timeouts import NO_CCXT_TIMEOUT

if TYPE_CHECKING:
    import pandas as pd

    from agent.data.kline_messages import Page

_FLUSH_ROWS: Final = 50_000
_TRIES: Final = 6
_TIMEOUT: Final = 20.0  # seconds for each request
_TRANSIENT: Final = re.compile(r'"retCode":\s*(10000|10016)\b')  # server timeout, server error
_RETRY: Final = BackoffConfig(first=1_000, ceiling=30_000)
_WEEK: Final = 7 * DAY_MS
_SETTLE: Final = 2_000  # ms after the end of a bar until Bybit has counted its last trades
YAHOO_INTERVALS: Final = {m * MINUTE_MS: f"{m}m" for m in (1, 2, 5, 15, 30, 60)} | {DAY_MS: "1d"}
"""Interval in ms -> Yahoo's code."""

Progress = Callable[[int], object]
"""Called with the open time (UTC ms) up to which all bars are fetched."""


@dataclass(frozen=True, slots=True)
class KlineRequest:
    """Request for closed bars of `interval` ms that open in [`start`, `end`), UTC ms."""

    symbol: str
    interval: int
    start: int
    end: int
    category: Literal["linear", "spot"] = "linear"

    def labels(self, source: str) -> dict[str, str]:
        """Return the metadata of a file with these bars."""
        market = {"category": self.category} if source == "bybit" else {}
        return {"source": source, "symbol": self.symbol, "interval": format_duration(self.interval), **market}


class BybitKlines:
    """Bybit's public kline history of one symbol, an async context manager.

    It calls ccxt's raw endpoint, which keeps turnover and needs no market list. `venue` is mainnet, testnet
    or the URL of a sandbox on this machine.
    """

    def __init__(
        self,
        wanted: KlineRequest,
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
        options = {"fetchMarkets": {"types": [wanted.category]}}
        self._exchange: Any = ccxt.bybit({"timeout": NO_CCXT_TIMEOUT, "options": options})
        self._exchange.urls["api"] = dict.fromkeys(self._exchange.urls["api"], self._base)
        # a proxy in the environment must not be used for loopback
        self._exchange.aiohttp_trust_env = not is_loopback(self._base)
        self._ccxt = ccxt

    async def __aenter__(self) -> BybitKlines:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exchange.close()

    async def fetch(self, writer: KlineWriter, progress: Progress = lambda _: None) -> int:
        """Append the closed bars that `writer` doesn't have yet; return the number of invalid rows left out.

        Bars fetched before an error are kept. Raises UsageError for an unknown symbol, DataError if the
        window has no bars, VenueError if Bybit can't be reached.
        """
        wanted, interval = self._wanted, self._wanted.interval
        since = -(-max(wanted.start, writer.last + interval if writer.last else 0) // interval) * interval
        if wanted.start < writer.first >= await self._first_listed(wanted.start) + _WEEK:
            raise DataError(
                f"{writer.path} begins at {iso(writer.first)}, and earlier bars can't be added",
                hint="name another file with --output",
            )
        rows: list[KlineRow] = []
        invalid = 0
        try:
            while since < wanted.end:
                page = await self._page(since, wanted.end)
                if not page.result.rows and not rows and not writer.last:
                    since = await self._first_listed(since)
                    page = await self._page(since, wanted.end)
                found, bad = self._valid_rows(page, since, wanted.end)
                rows += found
                invalid += bad
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
            raise self._no_klines()
        return invalid

    async def latest(self, count: int) -> list[KlineRow]:
        """Return the last `count` closed bars by the venue's clock, or all if there are fewer.

        The request's window is ignored. Raises as `fetch`.
        """
        wanted, interval = self._wanted, self._wanted.interval
        now = (await self._request({"interval": self._code})).time
        rows: list[KlineRow] = []
        for since in range((now // interval - count - 1) * interval, now, _page_span(interval)):
            page = await self._page(since, now)
            rows += self._valid_rows(page, since, now)[0]
        if not rows:
            raise DataError(f"Bybit has no {wanted.category} klines of {wanted.symbol}")
        return rows[-count:]

    def _valid_rows(self, page: Page, since: int, end: int) -> tuple[list[KlineRow], int]:
        """Return the page's closed bars in the window, in order, and the number of invalid ones."""
        from agent.data.kline_messages import is_sound

        interval = self._wanted.interval
        end = min(end, since + _page_span(interval), page.time - _SETTLE - interval + 1)
        closed = [row for row in reversed(page.result.rows) if since <= row.start < end]
        valid = [row for row in closed if is_sound(row, interval, page.time)]
        rows = [(r.start, r.open, r.high, r.low, r.close, r.volume, r.turnover) for r in valid]
        return rows, len(closed) - len(valid)

    async def _page(self, since: int, end: int) -> Page:
        until = min(since + _page_span(self._wanted.interval), end)
        return await self._request({"interval": self._code, "start": since, "end": until - 1})

    async def _first_listed(self, since: int) -> int:
        """Return the beginning of the first week with bars: a symbol may be much younger than the window."""
        weeks = (await self._request({"interval": "W", "start": since - _WEEK})).result.rows
        first = min((row.start for row in weeks), default=self._wanted.end)
        if first >= self._wanted.end:
            raise self._no_klines()
        return max(since, first)

    async def _request(self, params: dict[str, object]) -> Page:
        from agent.config.bybit import PAGE
        from agent.data.kline_messages import read_page
        from agent.system.untrusted import JSON_DECODE_ERRORS

        ccxt, wanted = self._ccxt, self._wanted
        waits = islice(delays(self._retry, random.Random()), _TRIES - 1)
        params = {"category": wanted.category, "symbol": wanted.symbol, "limit": PAGE, **params}
        while True:
            try:
                return read_page(await self._respond(self._exchange.publicGetV5MarketKline(params)))
            except ccxt.BadRequest as error:
                raise UsageError(
                    f"Bybit has no {wanted.category} klines of {wanted.symbol}: {brief(error)}",
                    hint=await self._suggestion(),
                ) from None
            except (ccxt.ExchangeError, ccxt.NetworkError, *JSON_DECODE_ERRORS) as error:
                if isinstance(error, ccxt.ExchangeError) and not _TRANSIENT.search(str(error)):
                    raise VenueError(f"Bybit refuses klines of {wanted.symbol}: {brief(error)}") from None
                wait = next(waits, None)
                # HTTP 403 is a ban of the address, which further requests prolong
                if wait is None or " 403 " in str(error):
                    hint = (
                        "check the network, then run the same command again: it continues after the last bar"
                    )
                    raise VenueError(
                        f"Bybit can't be reached at {self._base}: {brief(error)}", hint=hint
                    ) from None
                await self._sleep(wait)

    async def _respond(self, request: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await request
        except TimeoutError:
            raise self._ccxt.RequestTimeout(f"no response in {_TIMEOUT:.0f} s") from None

    async def _suggestion(self) -> str:
        try:
            markets = await self._respond(self._exchange.load_markets())
        except self._ccxt.BaseError:
            return ""
        symbols = [market["id"] for market in markets.values()]
        return did_you_mean(self._wanted.symbol, symbols, most=3) or "symbols look like BTCUSDT"

    def _no_klines(self) -> DataError:
        wanted = self._wanted
        window = f"that opened from {iso(wanted.start)} to {iso(wanted.end)}"
        return DataError(f"Bybit has no {wanted.category} klines of {wanted.symbol} {window}")


def yahoo_klines(wanted: KlineRequest, now: int) -> list[KlineRow]:
    """Fetch the bars that have closed by `now` (UTC ms) from Yahoo, adjusted for splits and dividends.

    Raises UsageError if yfinance isn't installed, ConfigError if Yahoo has no such interval, VenueError if
    Yahoo can't be reached, DataError if it has no bars.
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
        missing = "--source yahoo needs yfinance, which is not installed"
        raise UsageError(missing, hint='pip install "tapewire[equities]"') from None
    begin, end = (
        pd.Timestamp(ms, unit="ms", tz="UTC") for ms in (wanted.start - DAY_MS, wanted.end + DAY_MS)
    )
    yf.config.debug.hide_exceptions = False
    try:
        ticker = yf.Ticker(wanted.symbol)
        frame = ticker.history(start=begin, end=end, interval=interval, auto_adjust=True, actions=False)
    except (yf.exceptions.YFException, OSError) as error:
        message = f"Yahoo returned no klines of {wanted.symbol}: {brief(error)}"
        raise VenueError(message, hint="check symbol and connection") from None
    rows = [row for row in yahoo_rows(frame, wanted.interval, now) if wanted.start <= row[0] < wanted.end]
    if not rows:
        window = f"that opened from {iso(wanted.start)} to {iso(wanted.end)}"
        raise DataError(f"Yahoo has no klines of {wanted.symbol} {window}")
    return rows


def yahoo_rows(frame: pd.DataFrame, interval: int, now: int) -> list[KlineRow]:
    """Return the closed bars of a yfinance frame: aware index, columns Open, High, Low, Close, Volume.

    A daily bar opens at 00:00 UTC of its session's date, so it is known 24 hours later, after every market's
    close. High and low are widened to open and close if adjusting has rounded them apart; rows without a
    price are dropped.
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


def default_output(wanted: KlineRequest) -> Path:
    """Return the default file of a download."""
    return Path("var") / "klines" / f"{wanted.symbol}-{format_duration(wanted.interval)}.parquet"


def _page_span(interval: int) -> int:
    from agent.config.bybit import PAGE

    return PAGE * interval
