"""Histories of bars that many engines read and one fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agent.core.bar_history import KEPT, Bars, BarSeries, Column, SymbolHistory, room_for


class SharedSeries(BarSeries):
    """The bars of another series, as many of them as a series of one's own would have kept.

    How many bars a series keeps depends on what was requested of it so far. The source keeps more than any of
    its readers, and each reader sees no more than it would have alone.
    """

    __slots__ = ("_counted", "_rows", "_source")

    def __init__(self, source: BarSeries) -> None:
        self.name = source.name
        self.interval = source.interval
        self.bound = KEPT
        self.requested = 0
        self._source = source
        self._rows = self._counted = 0  # rows that a buffer of its own had when so many bars had come
        source.hold(2 * KEPT)

    @property
    def count(self) -> int:
        return self._source.count

    def available(self, n: int) -> int:
        rows, room = self._rows + self._source.count - self._counted, room_for(self.bound)
        if rows > room:  # each time the buffer is full, its last `bound` rows move to a new one
            rows = self.bound + (rows - room - 1) % (room - self.bound) + 1
        return min(n, rows)

    def last(self, n: int) -> Bars:
        return self._source.last(self.available(n))

    def columns(self, names: Sequence[str], n: int) -> list[Column]:
        return self._source.columns(names, self.available(n))

    def hold(self, n: int) -> None:
        if n > self.bound:
            self._rows = self.available(n)
            self._counted = self._source.count
            self.bound = n
            self._source.hold(2 * n)


class SharedHistory(SymbolHistory):
    """The bars of another history. Only requests for more bars than were kept are counted here."""

    def __init__(self, source: SymbolHistory, counts: Counter[str]) -> None:
        self.series = {name: SharedSeries(series) for name, series in source.series.items()}
        self.closed = source.closed
        self._counts = counts
