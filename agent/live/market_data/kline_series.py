"""One series of bars out of two sources: a stream that may lose, repeat and reorder, and a history that
completes it.

Pure: it is offered bars and answers with what may go on. Whatever the order of arrival, every closed bar
comes out once and in order, and a `Gap` stands exactly where nobody has the bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from agent.core.events import Gap, Kline
from agent.live.market_data.price_band import PriceBand

NOTHING_MISSING: Final = -1
EVERYTHING: Final = 1 << 62


class Series:
    """The bars of one symbol and interval (ms). `last` is the start of the last closed bar that went on, UTC
    ms; `band` judges prices.

    While not `live`, closed bars are held back until the history has been asked for what is missing before
    them.

    State advances as the iterators are consumed, an event after it was taken: one that is abandoned half-way,
    because its taker was cancelled, is continued by the next call.
    """

    def __init__(
        self, symbol: str, interval: int, last: int | None = None, *, band: PriceBand | None = None
    ) -> None:
        self.band = band or PriceBand(0.0, 0)
        self.symbol = symbol
        self.interval = interval
        self.last = last
        self.live = False
        self.duplicates = 0
        self.stale = 0  # states of an open bar that came after newer ones
        self._doubted = -1  # start of the newest closed bar that only the history may confirm
        self._held: dict[int, Kline] = {}
        self._open: Kline | None = None  # newest state of a bar that is still open, not yet given out
        self._newest = (0, 0)  # start and ts of the newest state

    def suspend(self) -> None:
        """Hold bars back: something may have been missed."""
        self.live = False

    def doubt(self, start: int) -> None:
        """Leave out the stream's closed bar that opened at `start` (UTC ms), and hold the later ones
        until the history has it.
        """
        self._doubted = max(self._doubted, start)
        self.live = False

    def overdue(self, now: int) -> bool:
        """Whether the close of the next bar should be known at `now` (UTC ms)."""
        return self.last is not None and self.last + 2 * self.interval <= now

    def offer(self, bar: Kline) -> Iterator[Kline | Gap]:
        """Take a bar of the stream; yields what may go on now, where nothing is missing before it."""
        if (self.last is not None and bar.start <= self.last) or bar.start in self._held:
            if bar.confirm:
                self.duplicates += 1
            else:
                self.stale += 1
        elif bar.confirm:
            self._held[bar.start] = bar
            if self.live or self.last is not None:
                yield from self._release(NOTHING_MISSING)
        elif (bar.start, bar.ts) < self._newest:
            self.stale += 1
        else:
            self._open, self._newest = bar, (bar.start, bar.ts)
            yield from self._release_open()

    def fill(self, bars: Iterable[Kline], proven: int) -> Iterator[Kline | Gap]:
        """Take closed bars of the history, which has no others that start at or before `proven` (UTC ms).

        Afterwards the series is live, or bars after `proven` are missing and the history is to be asked
        again.
        """
        for bar in bars:
            if self.last is None or bar.start > self.last:
                self._held.setdefault(bar.start, bar)
        yield from self._release(proven)
        if self.last is not None and max(self.last, proven) < self._doubted:
            self.live = False  # the history is too young to have the bar

    def give_up(self) -> Iterator[Kline | Gap]:
        """Go on without the history: what is missing is a gap."""
        return self.fill((), EVERYTHING)

    def _release(self, proven: int) -> Iterator[Kline | Gap]:
        for start in sorted(self._held):
            due = start if self.last is None else self.last + self.interval
            if start > due:
                before = start - self.interval
                if before > proven:
                    self.live = False
                    return
                bar = self._held[start]
                yield Gap(self.symbol, self.interval, due, start, bar.available_at, start)
                self.last = before
            yield self._held[start]
            self.last = start
            del self._held[start]
        self.live = True
        yield from self._release_open()

    def _release_open(self) -> Iterator[Kline]:
        """An open bar goes on once the bar before it is closed: a close may come after the next bar's
        first states.
        """
        bar = self._open
        if bar is None:
            return
        if self.last is None:
            if not self.live:
                return
        elif bar.start > self.last + self.interval:
            return
        if self.last is None or bar.start > self.last:
            yield bar
        self._open = None
