"""One series of bars from two sources: a stream that may lose, repeat and reorder bars, and a history that
completes it.

Pure: bars go in, and the events that may be emitted come out. Whatever the order of arrival, each closed bar
is emitted once and in order, and bars that neither source has become a `Gap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from agent.core.events import Gap, Kline
from agent.live.market_data.price_band import PriceBand

NO_HISTORY: Final = -1
UNBOUNDED: Final = 1 << 62


class KlineSeries:
    """Bars of one symbol and interval (ms). `last` is the start of the last emitted closed bar, UTC ms.

    While `live` is false, closed bars are held back until the history has supplied what is missing before
    them.

    The methods that return iterators advance the state after each event is taken. If an iterator is abandoned
    (its consumer was cancelled), the next call continues from the event that was not taken.
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
        self._unconfirmed = -1  # start of the newest closed bar that only the history can confirm
        self._held: dict[int, Kline] = {}
        self._open: Kline | None = None  # newest state of an open bar, not yet emitted
        self._newest = (0, 0)  # start and ts of the newest state

    def suspend(self) -> None:
        """Hold bars back until the history has been fetched: the stream may have lost some."""
        self.live = False

    def require_history(self, start: int) -> None:
        """Hold bars back until the history has the closed bar that starts at `start` (UTC ms); the
        stream's is dropped.
        """
        self._unconfirmed = max(self._unconfirmed, start)
        self.live = False

    def is_overdue(self, now: int) -> bool:
        """True if the next bar should have closed a whole interval before `now` (UTC ms)."""
        return self.last is not None and self.last + 2 * self.interval <= now

    def add(self, bar: Kline) -> Iterator[Kline | Gap]:
        """Add a bar of the stream and yield what can be emitted: bars before which nothing is missing."""
        if (self.last is not None and bar.start <= self.last) or bar.start in self._held:
            if bar.confirm:
                self.duplicates += 1
            else:
                self.stale += 1
        elif bar.confirm:
            self._held[bar.start] = bar
            if self.live or self.last is not None:
                yield from self._release(NO_HISTORY)
        elif (bar.start, bar.ts) < self._newest:
            self.stale += 1
        else:
            self._open, self._newest = bar, (bar.start, bar.ts)
            yield from self._release_open()

    def add_history(self, bars: Iterable[Kline], complete_until: int) -> Iterator[Kline | Gap]:
        """Add closed bars of the history, which is complete up to the start `complete_until` (UTC ms).

        If `live` is false afterwards, later bars are missing and the history must be fetched again.
        """
        for bar in bars:
            if self.last is None or bar.start > self.last:
                self._held.setdefault(bar.start, bar)
        yield from self._release(complete_until)
        if self.last is not None and max(self.last, complete_until) < self._unconfirmed:
            self.live = False  # the history is too old to have the bar

    def continue_without_history(self) -> Iterator[Kline | Gap]:
        """Continue with the bars at hand; missing ones become a gap."""
        return self.add_history((), UNBOUNDED)

    def _release(self, complete_until: int) -> Iterator[Kline | Gap]:
        for start in sorted(self._held):
            due = start if self.last is None else self.last + self.interval
            if start > due:
                before = start - self.interval
                if before > complete_until:
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
        """Yield the open bar if the one before it is closed: a close may arrive after the next bar's
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
