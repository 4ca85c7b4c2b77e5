"""Closed bars from the REST history, through ccxt's raw endpoint: no key, no market list, and turnover
kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import ccxt.async_support as ccxt

from agent.config.bybit import PAGE, endpoint, interval_code
from agent.config.live import BybitConfig
from agent.core.errors import VenueError, brief
from agent.core.events import DAY_MS, Kline
from agent.data.kline_messages import Page, is_sound, read_page, read_time, to_kline
from agent.system.addresses import is_loopback
from agent.system.backoff import Budget
from agent.system.clock import Clock, speed_of
from agent.system.clock_discipline import DisciplinedClock
from agent.system.untrusted import JSON_DECODE_ERRORS

_T = TypeVar("_T")
_HOSTS: Final = ("public", "private", "spot", "futures", "v2")  # of ccxt's table of base URLs


class RequestRefused(VenueError):
    """The venue understood the request and will never grant it: an unknown symbol, a wrong parameter."""


class History(NamedTuple):
    """Closed bars in order, and how far they are complete: the venue has no others up to the start
    `proven` (UTC ms).
    """

    bars: list[Kline]
    proven: int
    unsound: int  # rows that are no possible bar


class KlineHistory:
    """Asks for klines page by page, within `budget`, the limit on requests. Use it as an async context
    manager.

    `category` is `linear` or `spot`.
    """

    def __init__(self, config: BybitConfig, category: str, clock: Clock, budget: Budget) -> None:
        self._config = config
        self._category = category
        self._clock = clock
        self._discipline = clock if isinstance(clock, DisciplinedClock) else None
        # A clock that nobody disciplines may be wrong by more
        self._ahead = DAY_MS if self._discipline is None else config.max_ahead
        self._budget = budget
        base = endpoint(config.endpoint).rest
        # The venue counts requests of an address whoever sends them, so this budget replaces ccxt's own
        # limiter.
        self._exchange: Any = ccxt.bybit({"enableRateLimit": False, "timeout": config.rest_timeout})
        self._exchange.urls["api"] = dict.fromkeys(_HOSTS, base)
        if is_loopback(base):
            self._exchange.timeout_on_exit = 0  # that is for TLS connections to say goodbye
        else:
            self._exchange.aiohttp_trust_env = True  # proxies of the environment

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.close()

    async def bars(self, symbol: str, interval: int, since: int) -> History:
        """All closed bars that start at `since` (UTC ms) or later.

        Which are closed is by the venue's clock. Raises RequestRefused where asking again is of no use, else
        VenueError.
        """
        code = interval_code(interval)
        settle = interval + self._config.settle
        bars: list[Kline] = []
        unsound = 0
        while True:
            # A window that holds a page at most: which rows the venue leaves out of a larger one isn't
            # documented.
            until = since + PAGE * interval
            page = await self._page(
                {"symbol": symbol, "interval": code, "start": since, "end": until - 1, "limit": PAGE}
            )
            now = self._clock.now()
            # Believed, it would have us ask for the pages of all the time until then
            if page.time > now + self._ahead * speed_of(self._clock):
                raise VenueError(
                    f"Bybit says that it is {page.time} (UTC ms), and here it is {now}",
                    hint="synchronise this machine's clock by NTP; if it is right, wait for the venue's",
                )
            for row in reversed(page.result.rows):
                if row.start + settle > page.time:
                    continue
                if is_sound(row, interval, page.time):
                    bars.append(to_kline(row, symbol, interval, page.time, now))
                else:
                    unsound += 1
            if until + settle > page.time:
                return History(bars, page.time - settle, unsound)
            since = until

    async def measure(self) -> None:
        """Compare a disciplined clock with the venue's, any other not at all. Raises VenueError."""
        if self._discipline is not None:
            sent, theirs = await self._ask("time", lambda: self._exchange.publicGetV5MarketTime(), read_time)
            self._discipline.add_measurement(theirs, sent)

    async def _page(self, params: dict[str, object]) -> Page:
        asked = {"category": self._category, **params}
        what = f"klines of {params['symbol']}"
        sent, page = await self._ask(what, lambda: self._exchange.publicGetV5MarketKline(asked), read_page)
        if self._discipline is not None:
            self._discipline.add_measurement(page.time, sent)
        return page

    async def _ask(
        self, what: str, request: Callable[[], Awaitable[object]], read: Callable[[object], _T]
    ) -> tuple[float, _T]:
        """When the request left (ms of the steady clock), and the answer."""
        await self._budget.take()
        sent = 0.0 if self._discipline is None else self._discipline.steady()
        try:
            return sent, read(await request())
        except (ccxt.BadRequest, ccxt.AuthenticationError) as error:  # bad symbols are bad requests
            raise RequestRefused(f"Bybit refuses {what}: {brief(error)}") from error
        except ccxt.RateLimitExceeded as error:
            # HTTP 403 bans the address, and each further request makes it longer.
            wait = self._config.ban_wait if " 403 " in str(error) else self._config.throttle_wait
            if "10006" not in str(error):
                self._budget.close(asyncio.get_running_loop().time() + wait / 1000)
            raise VenueError(f"Bybit's limit on requests: {brief(error)}") from error
        except ccxt.BaseError as error:
            raise VenueError(f"Bybit's {what} can't be had: {brief(error)}") from error
        except JSON_DECODE_ERRORS as error:
            raise VenueError(f"Bybit's answer about {what} can't be read: {error}") from error
