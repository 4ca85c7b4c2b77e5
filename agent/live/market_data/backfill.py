"""Closed bars of the REST history, through ccxt's raw endpoint: no key, no market list, and with turnover."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import ccxt.async_support as ccxt

from agent.config.bybit import PAGE, endpoint, interval_code
from agent.config.live import BybitConfig
from agent.core.durations import format_duration
from agent.core.errors import VenueError, brief
from agent.core.events import DAY_MS, Kline
from agent.data.kline_messages import Page, is_sound, read_page, read_time, to_kline
from agent.system.addresses import is_loopback
from agent.system.backoff import Budget
from agent.system.clock import Clock, speed_of
from agent.system.clock_discipline import DisciplinedClock
from agent.system.http_timeouts import NO_CCXT_TIMEOUT
from agent.system.untrusted import JSON_DECODE_ERRORS

_T = TypeVar("_T")
_HOSTS: Final = ("public", "private", "spot", "futures", "v2")  # keys of ccxt's table of base URLs


class RequestRejected(VenueError):
    """The request will never succeed: unknown symbol, invalid parameter."""


class FetchedBars(NamedTuple):
    """Closed bars in order, complete up to the start `complete_until` (UTC ms)."""

    bars: list[Kline]
    complete_until: int
    unsound: int  # rows with impossible values, left out


class KlineHistory:
    """Client of the venue's kline history; use it as an async context manager.

    `category` is `linear` or `spot`, `budget` limits the requests.
    """

    def __init__(self, config: BybitConfig, category: str, clock: Clock, budget: Budget) -> None:
        self._config = config
        self._category = category
        self._clock = clock
        self._discipline = clock if isinstance(clock, DisciplinedClock) else None
        # An undisciplined clock may be wrong by more
        self._max_ahead = DAY_MS if self._discipline is None else config.max_ahead
        self._budget = budget
        base = endpoint(config.endpoint).rest
        # The venue limits all requests of an address together, so `budget` replaces ccxt's own limiter
        self._exchange: Any = ccxt.bybit({"enableRateLimit": False, "timeout": NO_CCXT_TIMEOUT})
        self._exchange.urls["api"] = dict.fromkeys(_HOSTS, base)
        if is_loopback(base):
            self._exchange.timeout_on_exit = 0  # the wait is for the closing handshake of TLS
            # Without TLS, no certificate is checked, and to load those of the authorities takes a while
            self._exchange.verify = base.startswith("https:")
        else:
            self._exchange.aiohttp_trust_env = True  # use the environment's proxies

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.close()

    async def fetch(self, symbol: str, interval: int, since: int) -> FetchedBars:
        """Fetch all bars that start at `since` (UTC ms) or later and are closed by the venue's clock.

        Raises RequestRejected if a retry is useless, VenueError on any other failure.
        """
        code = interval_code(interval)
        settle = interval + self._config.settle
        bars: list[Kline] = []
        unsound = 0
        while True:
            # The window fits one page, since it isn't documented which rows of a larger one the venue returns
            until = since + PAGE * interval
            page = await self._fetch_page(symbol, interval=code, start=since, end=until - 1, limit=PAGE)
            now = self._clock.now()
            # With a time far in the future, this loop would fetch a page for each window until then
            if page.time > now + self._max_ahead * speed_of(self._clock):
                raise VenueError(
                    f"Bybit's clock is at {page.time} (UTC ms), this machine's at {now}",
                    hint="synchronise this machine's clock by NTP; if it is right, wait until Bybit's is",
                )
            for row in reversed(page.result.rows):
                if row.start + settle > page.time:
                    continue
                if is_sound(row, interval, page.time):
                    bars.append(to_kline(row, symbol, interval, page.time, now))
                else:
                    unsound += 1
            if until + settle > page.time:
                return FetchedBars(bars, page.time - settle, unsound)
            since = until

    async def sync_clock(self) -> None:
        """Measure the venue's time if the clock is a DisciplinedClock. Raises VenueError."""
        if self._discipline is not None:
            sent, theirs = await self._request(
                "time", lambda: self._exchange.publicGetV5MarketTime(), read_time
            )
            self._discipline.add_measurement(theirs, sent)

    async def _fetch_page(self, symbol: str, **query: object) -> Page:
        params = {"category": self._category, "symbol": symbol, **query}
        sent, page = await self._request(
            f"klines of {symbol}", lambda: self._exchange.publicGetV5MarketKline(params), read_page
        )
        if self._discipline is not None:
            self._discipline.add_measurement(page.time, sent)
        return page

    async def _request(
        self, what: str, send: Callable[[], Awaitable[object]], read: Callable[[object], _T]
    ) -> tuple[float, _T]:
        """Return the time of sending (ms of the steady clock) and the decoded response."""
        await self._budget.take()
        sent = 0.0 if self._discipline is None else self._discipline.steady()
        try:
            async with asyncio.timeout(self._config.rest_timeout / 1000):
                reply = await send()
            return sent, read(reply)
        except TimeoutError:
            waited = format_duration(self._config.rest_timeout)
            raise VenueError(f"could not fetch {what} from Bybit: no response in {waited}") from None
        except (ccxt.BadRequest, ccxt.AuthenticationError) as error:  # BadRequest includes bad symbols
            raise RequestRejected(f"Bybit rejects the request for {what}: {brief(error)}") from error
        except ccxt.RateLimitExceeded as error:
            # HTTP 403 bans the address, and each further request prolongs the ban
            wait = self._config.ban_wait if " 403 " in str(error) else self._config.throttle_wait
            if "10006" not in str(error):
                self._budget.close(asyncio.get_running_loop().time() + wait / 1000)
            raise VenueError(f"Bybit's rate limit: {brief(error)}") from error
        except ccxt.BaseError as error:
            raise VenueError(f"could not fetch {what} from Bybit: {brief(error)}") from error
        except JSON_DECODE_ERRORS as error:
            raise VenueError(f"could not read Bybit's response for {what}: {error}") from error
