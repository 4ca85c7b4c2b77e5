"""Filters between producers and queue: duplicate headlines, and most states of open bars.

Bybit pushes the open bar of each symbol up to once a second. Most of these states decide nothing, since
features and the strategy's callbacks come from closed bars, so only some of them are journalled: those that
meet a working order of the paper exchange, move a trailing stop, end an entry whose time is up or take the
equity to a risk limit, those that an order at a venue may have met, and a sample of the others. The
states left out change no order, fill or limit, but marks are as old as the sample. The last state of each
symbol is therefore held back, and journalled before an event that a strategy decides on: a closed bar of
another symbol, a headline, its score. It is also journalled before a fill at a venue, whose costs are
measured from that price (`tapewire twin`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from agent.core.events import Event, Fill, Kline, News, Sentiment
from agent.core.orders import WorkingOrder
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.core.sleeves import engines_of
from agent.core.trading_engine import TradingEngine
from agent.data.text import news_id, title_key
from agent.live.interfaces.producer import Emit, deliver
from agent.live.resume import ResumePoint, title_hashes

_FIRST_PRICES: Final = 5_000
"""Milliseconds after the decision of an order at a venue in which every price is journalled."""


class OpenBarSampler:
    """Selects the states of open bars to journal. It reads the engine and never changes it.

    `every` is the sampling interval in ms; 0 selects all states.
    """

    def __init__(self, engine: TradingEngine, every: int) -> None:
        self.left_out = 0
        """Number of states that were not journalled."""
        self._engine = engine
        self._every = every
        exchanges = [one.exchange for one in engines_of(engine).values()]
        matches = all(
            isinstance(one, PaperExchange) for one in exchanges
        )  # otherwise orders are at the venue
        self._concerns = affects_order if matches else concerns_sent_order
        self._last: dict[str, int] = {}  # ts of the last state passed on
        self._held: dict[str, Kline] = {}  # a later state, held back
        self._check_limit = False  # a limit is reached: the engine checks the equity at the next event

    def on_bar(self, bar: Kline) -> Iterator[Kline]:
        """Yield the bars to journal now: none, `bar`, or the held-back states of other symbols as well."""
        state = self._engine.states.get(bar.symbol)
        if bar.confirm:
            self._drop(bar.symbol)
            yield from self.release()
        if bar.confirm or not self._every or state is None or bar.interval != state.interval:
            yield bar
            return
        due = bar.ts - self._last.get(bar.symbol, -self._every) >= self._every
        if (
            due
            or self._check_limit
            or any(bar.ts >= one.exchange.next_expiry for one in engines_of(self._engine).values())
            or any(self._concerns(working, bar) for working in state.book)
        ):
            self._check_limit = False
            yield self._pass_on(bar)
            return
        self._drop(bar.symbol)
        self._held[bar.symbol] = bar
        if self._reaches_limit():
            self._check_limit = True
            yield from self.release()

    def release(self) -> Iterator[Kline]:
        """Yield the bars that were held back: the current marks."""
        for bar in list(self._held.values()):
            yield self._pass_on(bar)

    def _pass_on(self, bar: Kline) -> Kline:
        if self._held.get(bar.symbol) is bar:
            del self._held[bar.symbol]
        else:
            self._drop(bar.symbol)
        self._last[bar.symbol] = bar.ts
        return bar

    def _drop(self, symbol: str) -> None:
        self.left_out += self._held.pop(symbol, None) is not None

    def _reaches_limit(self) -> bool:
        """Whether the equity of the account, or of a sleeve, at the current marks has reached a risk limit
        that the engine's older marks don't show.
        """
        parts = [(self._engine.portfolio, self._engine.risk)]
        parts += [(one.portfolio, one.risk) for one in engines_of(self._engine).values()]
        return any(self._reaches(portfolio, risk.floor) for portfolio, risk in parts)

    def _reaches(self, portfolio: Portfolio, floor: float) -> bool:
        equity = portfolio.cash_float
        found = False
        for position in portfolio.open:
            bar = self._held.get(position.symbol)
            equity += position.size * (position.mark if bar is None else bar.close)
            found = found or bar is not None
        return found and equity <= floor


def affects_order(working: WorkingOrder, bar: Kline) -> bool:
    """Whether the last price of an open bar affects a working order of the paper exchange
    (`PaperExchange.on_price`).
    """
    if working.arrives_at >= bar.ts:
        return False
    if not working.seen:
        return True
    if working.is_limit:
        return working.marketable(bar.close) and bar.close != working.limit
    if working.trails and working.improves(bar.close):
        return True
    return working.triggered or working.crossed(bar.close, bar.close)


def concerns_sent_order(working: WorkingOrder, bar: Kline) -> bool:
    """Whether an order at a venue may have met the last price of an open bar, or met it first on paper."""
    if bar.ts - working.arrives_at <= _FIRST_PRICES:
        return True
    if working.is_limit:
        return working.marketable(bar.close)
    return working.triggered or working.crossed(bar.close, bar.close)


class EventFilter:
    """Passes each headline once in a run, and the states of open bars that `OpenBarSampler` selects.

    Feeds list a headline for days. The journal has the headlines of the run, so no other record of them is
    kept.
    """

    def __init__(
        self, open_bars: OpenBarSampler, memory: ResumePoint, emit: Emit, writable: asyncio.Event
    ) -> None:
        self._open_bars = open_bars
        self._memory = memory
        self._emit = emit
        self._writable = writable
        self._earlier = {hashes[32:] for hashes in memory.headlines.values() if hashes}

    async def __call__(self, event: Event) -> None:
        """Pass the event on to the queue, or drop it."""
        if isinstance(event, Kline):
            for bar in self._open_bars.on_bar(event):
                waiting = self._emit(bar)
                if waiting is not None:
                    await waiting
            return
        if isinstance(event, News):
            await self._writable.wait()  # until then nothing empties the queue, which would drop headlines
            headline = self._new(event)
            if headline is None:
                return
            event = headline
        if isinstance(event, News | Sentiment | Fill):
            for bar in self._open_bars.release():
                await deliver(self._emit, bar)
        await deliver(self._emit, event)

    def _new(self, news: News) -> News | None:
        """Return the headline, or None if the run has it; if its id belongs to another title, give it a new
        id.

        After a restart the feed readers have lost what they emitted, and an id may be shared by entries or
        changed by its feed. A headline with the same feed, address and title is the same headline.
        """
        hashes = title_hashes(news)
        known = self._memory.headlines.get(news.id, "")
        untitled = news.summary.startswith(news.title)  # only the id counts, since a summary may change
        if known is None or known[:32] == hashes[:32] or (known and untitled) or hashes[32:] in self._earlier:
            return None
        if not known:
            return news
        own = replace(news, id=news_id("", news.id, title_key(news.title), 0))
        return None if own.id in self._memory.headlines else own
