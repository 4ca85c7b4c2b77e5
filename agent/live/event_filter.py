"""Which states of a bar that is still open are journalled: those that can decide, and a sample of the others.

Bybit pushes the open bar of each symbol up to once a second, and most of these states decide nothing: a bar's features, and the
strategy's callbacks, come from closed bars. A state can decide if it meets a working order of the paper exchange, or takes the equity to
a limit of risk. What is left out changes no order, fill or limit, but marks are as old as the sample. So the last state of each symbol
is kept back, and journalled before what a strategy decides on: a closed bar of another symbol, a headline, its score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from msgspec.structs import replace

from agent.core.engine import Engine
from agent.core.events import Event, Kline, News, Sentiment
from agent.core.orders import WorkingOrder
from agent.core.paper import PaperExchange
from agent.data.text import news_id, title_key
from agent.live.interfaces.producer import Emit, deliver
from agent.live.resume import ResumePoint, words_of


class OpenBars:
    """Reads the core, and never changes it. `every` is the interval of the sample in ms; 0: all states."""

    def __init__(self, engine: Engine, every: int) -> None:
        self.left_out = 0
        """States so far that were not journalled."""
        self._engine = engine
        self._every = every
        self._matches = isinstance(engine.exchange, PaperExchange)  # else the orders wait at the venue
        self._last: dict[str, int] = {}  # ts of the last state that went on
        self._back: dict[str, Kline] = {}  # the state after it, kept back
        self._look = False  # a limit is reached, and the core checks the equity at the next event

    def on_bar(self, bar: Kline) -> Iterator[Kline]:
        """What is to be journalled now that `bar` has come: nothing, the bar, or what was kept back of other symbols as well."""
        state = self._engine.states.get(bar.symbol)
        if bar.confirm:
            self._drop(bar.symbol)
            yield from self.catch_up()
        if bar.confirm or not self._every or state is None or bar.interval != state.interval:
            yield bar
            return
        due = bar.ts - self._last.get(bar.symbol, -self._every) >= self._every
        if due or self._look or (self._matches and any(meets(working, bar) for working in state.book)):
            self._look = False
            yield self._passed(bar)
            return
        self._drop(bar.symbol)
        self._back[bar.symbol] = bar
        if self._reaches_a_limit():
            self._look = True
            yield from self.catch_up()

    def catch_up(self) -> Iterator[Kline]:
        """All bars that were kept back: the current marks."""
        for bar in list(self._back.values()):
            yield self._passed(bar)

    def _passed(self, bar: Kline) -> Kline:
        if self._back.get(bar.symbol) is bar:
            del self._back[bar.symbol]
        else:
            self._drop(bar.symbol)
        self._last[bar.symbol] = bar.ts
        return bar

    def _drop(self, symbol: str) -> None:
        self.left_out += self._back.pop(symbol, None) is not None

    def _reaches_a_limit(self) -> bool:
        """Whether the equity at the current marks is at a limit of risk that the core, with its older marks, is above."""
        equity = self._engine.portfolio.cash_float
        held = False
        for position in self._engine.portfolio.open:
            bar = self._back.get(position.symbol)
            equity += position.size * (position.mark if bar is None else bar.close)
            held = held or bar is not None
        return held and equity <= self._engine.risk.floor


def meets(working: WorkingOrder, bar: Kline) -> bool:
    """Whether the last price of an open bar does anything to a working order of the paper exchange (`PaperExchange.on_price`)."""
    if working.arrives_at >= bar.ts:
        return False
    if not working.seen:
        return True
    if working.is_limit:
        return working.marketable(bar.close) and bar.close != working.limit
    return working.triggered or working.crossed(bar.close, bar.close)


class EventFilter:
    """Before the queue: a headline passes once in the life of a run, and of an open bar the states that `OpenBars` picks.

    Feeds list a headline for days. Which ones a run has had is in its journal, so nothing else must be remembered.
    """

    def __init__(self, open_bars: OpenBars, memory: ResumePoint, emit: Emit, writable: asyncio.Event) -> None:
        self._open_bars = open_bars
        self._memory = memory
        self._emit = emit
        self._writable = writable
        self._before = {words[32:] for words in memory.headlines.values() if words}

    async def __call__(self, event: Event) -> None:
        """Pass on, or drop."""
        if isinstance(event, Kline):
            for bar in self._open_bars.on_bar(event):
                await deliver(self._emit, bar)
            return
        if isinstance(event, News):
            await self._writable.wait()  # a queue that nobody empties would drop them
            headline = self._new(event)
            if headline is None:
                return
            event = headline
        if isinstance(event, News | Sentiment):
            for bar in self._open_bars.catch_up():
                await deliver(self._emit, bar)
        await deliver(self._emit, event)

    def _new(self, news: News) -> News | None:
        """The headline, under an id of its own if the run has another title under its id; None if the run has it.

        After a restart feeds know nothing of what they gave out: an id that entries share, or that a feed changes, tells nothing, and
        then the same feed, address and title are the same headline.
        """
        words = words_of(news)
        known = self._memory.headlines.get(news.id, "")
        untitled = news.summary.startswith(news.title)  # then the id alone counts, for a summary changes
        if known is None or known[:32] == words[:32] or (known and untitled) or words[32:] in self._before:
            return None
        if not known:
            return news
        own = replace(news, id=news_id("", news.id, title_key(news.title), 0))
        return None if own.id in self._memory.headlines else own
