"""Bounded histories of closed bars, by symbol and interval, for strategies and indicators.

The engine adds each closed bar of the run's interval to the `SymbolHistory` of its symbol, which folds the
higher intervals from it. A history only has what was available when the last bar closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import StrategyError
from agent.core.intervals import parse_interval, period_end, period_start

Column = NDArray[np.float64]
Row = tuple[int, float, float, float, float, float]
"""A bar: start (UTC ms), open, high, low, close and volume."""

KEPT: Final = 1_000
"""Bars of each symbol and interval that are kept at least."""

MOST: Final = 100_000
"""Most bars that a strategy may request."""

_COLUMNS: Final = ("open", "high", "low", "close", "volume", "start", "missing")
_START: Final = _COLUMNS.index("start")


class Bar(NamedTuple):
    """A closed bar of one of the strategy's intervals; times are UTC ms."""

    symbol: str
    interval: str  # as the strategy declared it
    start: int
    ts: int  # end of its period
    open: float
    high: float
    low: float
    close: float
    volume: float  # base coin or shares
    missing: float = 0.0  # bars of the run's interval that it lacks; NaN in a market that closes


class Bars:
    """Closed bars of one symbol and interval as read-only columns of one length, oldest first.

    The columns are views into the history. Later bars don't change them.
    """

    __slots__ = _COLUMNS

    def __init__(self, columns: Sequence[Column]) -> None:
        self.open, self.high, self.low, self.close, self.volume, self.start, self.missing = columns

    open: Column
    high: Column
    low: Column
    close: Column
    volume: Column
    """In base coin or shares."""
    start: Column
    """Open time, UTC ms. A period without any bar has no row, which shows as a step."""
    missing: Column
    """Bars of the run's interval that a bar lacks: 0 if it is complete; NaN in a market that closes."""

    def __len__(self) -> int:
        return len(self.close)


class BarSeries:
    """The last closed bars of one symbol and interval, at least `bound` of them.

    Rows are appended to a buffer. If it is full, the last `bound` rows move to a new buffer and the old one
    is never written again, so a view is valid for ever.
    """

    __slots__ = (
        *("_count", "_data", "_end", "_views", "_writers"),
        *("requested", "bound", "interval", "last_start", "name"),
    )

    def __init__(self, name: str, interval: int, bound: int = KEPT) -> None:
        self.name = name  # the interval as the strategy wrote it
        self.interval = interval  # ms
        self.bound = bound
        self.requested = 0  # the most bars that were requested at once
        self._count = 0
        self.last_start = -1  # UTC ms
        self._end = 0  # rows in the buffer
        self._data = np.zeros((len(_COLUMNS), room_for(bound)))
        self.attach()

    @property
    def count(self) -> int:
        """Bars since the beginning."""
        return self._count

    def attach(self) -> None:
        """Make the views of the buffer, which are not part of the saved state."""
        # Writing through memory views takes half the time of writing into arrays
        self._writers: list[Any] = [row.data for row in self._data]
        view = self._data.view()
        view.flags.writeable = False
        self._views = list(view)

    def append(
        self,
        start: int,
        opened: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        missing: float,
    ) -> None:
        """Add a closed bar, which starts after all others."""
        if self._end == self._data.shape[1]:
            self._move()
        at = self._end
        opens, highs, lows, closes, volumes, starts, absent = self._writers
        opens[at] = opened
        highs[at] = high
        lows[at] = low
        closes[at] = close
        volumes[at] = volume
        starts[at] = start
        absent[at] = missing
        self._end = at + 1
        self._count += 1
        self.last_start = start

    def available(self, n: int) -> int:
        """Return how many of the last `n` bars there are."""
        return min(n, self._end)

    def last(self, n: int) -> Bars:
        """Return the last `n` bars, fewer if there aren't as many."""
        begin, end = max(0, self._end - n), self._end
        return Bars([column[begin:end] for column in self._views])

    def columns(self, names: Sequence[str], n: int) -> list[Column]:
        """Return the named columns of the last `n` bars, fewer if there aren't as many."""
        begin, end = max(0, self._end - n), self._end
        return [self._views[_COLUMNS.index(name)][begin:end] for name in names]

    def replaces(self, other: BarSeries) -> bool:
        """Return whether this series has more bars than `other`, and ends where it does."""
        return self.count > other.count and self.last_start >= other.last_start

    def rows(self) -> list[Row]:
        """Return the kept bars, oldest first: start, open, high, low, close and volume."""
        opens, highs, lows, closes, volumes, starts = (
            column[: self._end].tolist() for column in self._data[:6]
        )
        return [
            (int(start), *prices)
            for start, *prices in zip(starts, opens, highs, lows, closes, volumes, strict=True)
        ]

    def keep(self, n: int) -> bool:
        """Keep at least `n` bars from now on; return whether some of the last `n` have been dropped already.

        Raises ValueError if `n` is not a positive number up to `MOST`.
        """
        if not 0 < n <= MOST:
            raise ValueError(f"{n} bars of {self.name}: ask for 1 to {MOST:,}")
        if n <= self.requested:
            return False
        self.requested = n
        if n <= self.bound:
            return False
        self.hold(n)
        return min(self.count, n) > self.available(n)

    def hold(self, n: int) -> None:
        """Make room for at least `n` bars; what has been dropped stays so."""
        if n > self.bound:
            self.bound = n
            if room_for(n) > self._data.shape[1]:
                self._move()

    def _move(self) -> None:
        kept = min(self.bound, self._end)
        data = np.zeros((len(_COLUMNS), room_for(self.bound)))
        data[:, :kept] = self._data[:, self._end - kept : self._end]
        self._data, self._end = data, kept
        self.attach()


def room_for(bound: int) -> int:
    """Return the rows of the buffer of a series that keeps `bound` bars."""
    return bound + max(256, bound // 4)


class _Fold:
    """The bar of a higher interval that is being folded from bars of the run's interval."""

    __slots__ = ("bars", "close", "end", "high", "known", "low", "open", "start", "volume")

    def __init__(self) -> None:
        self.start = self.end = -1  # of its period, UTC ms
        self.bars = 0
        self.known = False  # False in the first period unless it was read from its beginning
        self.open = self.high = self.low = self.close = self.volume = 0.0


class SymbolHistory:
    """Histories of one symbol at the declared `intervals`, folded from bars of `base` (ms).

    A higher bar closes with the bar that ends its period; if that bar is missing, with the next one.
    `Bar.missing` is the number of bars that a higher bar lacks; `counts` counts higher bars that lack any. A
    period without any bar has no higher bar. The period in which the history begins is left out unless it
    was read from its beginning. `always_open` is False in a market that closes: absent bars are then not
    gaps.
    """

    __slots__ = ("_base", "_collect", "_counts", "_folds", "_gapless", "_symbol", "closed", "series")

    def __init__(
        self,
        symbol: str,
        base: int,
        intervals: dict[str, int],
        counts: Counter[str],
        *,
        always_open: bool = True,
        collect: bool = False,
    ) -> None:
        self.series: dict[str, BarSeries] = {}
        """Histories by the intervals' names."""
        for name, interval in intervals.items():
            self.series[name] = BarSeries(name, interval)
        self.closed: list[Bar] = []
        """Bars that the last bar closed, the shortest interval first; empty without `collect`."""
        self._symbol = symbol
        self._base = base
        self._counts = counts
        self._gapless = always_open
        self._collect = collect
        self._folds = {name: _Fold() for name, interval in intervals.items() if interval != base}

    def continue_from(
        self, earlier: SymbolHistory | None, past: Mapping[int, Sequence[Row]], needed: Mapping[str, int]
    ) -> None:
        """Begin with the bars of another strategy's history, which must not be used any more, and with `past`
        bars by interval (ms), which end with the last bar of the run's interval.

        An interval that `earlier` lacks, or has fewer bars of, is folded from bars of the run's interval.
        `needed` are the bars by interval that must be kept.
        """
        known = {} if earlier is None else {series.interval: series for series in earlier.series.values()}
        base = known.get(self._base)
        rows = {row[0]: row for row in past.get(self._base, ())}
        rows |= {row[0]: row for row in base.rows()} if base is not None else {}
        for name, series in list(self.series.items()):
            taken = known.get(series.interval)
            made = None
            if rows and (taken is None or past):
                made = self._fold_anew(name, series.interval, rows, past, needed.get(name, 0))
            if taken is not None and (made is None or not made.series[name].replaces(taken)):
                if earlier is not None and taken.name in earlier._folds:
                    self._folds[name] = earlier._folds[taken.name]
                taken.name, taken.requested = name, 0
                self.series[name] = taken
            elif made is not None:
                self.series[name] = made.series[name]
                if name in made._folds:
                    self._folds[name] = made._folds[name]

    def _fold_anew(
        self,
        name: str,
        interval: int,
        rows: Mapping[int, Row],
        past: Mapping[int, Sequence[Row]],
        keep: int,
    ) -> SymbolHistory:
        """Return a history of one interval: its past bars, then `rows`, the run's bars by start."""
        # Gaps of bars that came live have been counted
        made = SymbolHistory(self._symbol, self._base, {name: interval}, Counter(), always_open=self._gapless)
        if keep:
            made.series[name].keep(min(keep, MOST))
            made.series[name].requested = 0
        for start, *prices in past.get(interval, ()) if interval != self._base else ():
            if made.takes(interval, start):
                made.add_higher(interval, start, *prices)
        for start in sorted(rows):
            made.add(start, start + self._base, *rows[start][1:])
        return made

    def add(
        self, start: int, end: int, opened: float, high: float, low: float, close: float, volume: float
    ) -> None:
        """Add a closed bar of the run's interval; `start` and `end` are UTC ms."""
        if self._collect:
            self.closed.clear()
        folds = self._folds
        for name, series in self.series.items():
            fold = folds.get(name)
            if fold is None:
                self._append(series, start, end, opened, high, low, close, volume, 0.0)
                continue
            if start >= fold.end:
                if fold.bars:
                    self._close(series, fold)
                fold.known = fold.end >= 0
                fold.start = period_start(start, series.interval)
                fold.end = period_end(fold.start, series.interval)
                fold.known = fold.known or start == fold.start
                fold.open, fold.high, fold.low, fold.volume = opened, high, low, volume
            else:
                if high > fold.high:
                    fold.high = high
                if low < fold.low:
                    fold.low = low
                fold.volume += volume
            fold.close = close
            fold.bars += 1
            if end >= fold.end:
                self._close(series, fold)

    def takes(self, interval: int, start: int) -> bool:
        """Return whether a closed bar of a higher `interval` (ms), read from the venue, continues a history
        of whose period no bar of the run's interval has come yet.
        """
        for name, fold in self._folds.items():
            series = self.series[name]
            if series.interval == interval:
                return start > series.last_start and (fold.end < 0 or start >= fold.end)
        return False

    def add_higher(
        self, interval: int, start: int, opened: float, high: float, low: float, close: float, volume: float
    ) -> None:
        """Add a closed bar that `takes` accepts. `closed` stays as it is."""
        for name in self._folds:
            series = self.series[name]
            if series.interval == interval:
                series.append(start, opened, high, low, close, volume, 0.0)

    def find(self, interval: str) -> BarSeries:
        """Return the history of an interval. Raises StrategyError if the strategy doesn't declare it."""
        series = self.series.get(interval)
        if series is not None:
            return series
        ms = parse_interval(interval)
        for series in self.series.values():
            if series.interval == ms:
                return series
        declared = tuple(sorted({*self.series, interval}, key=parse_interval))
        raise StrategyError(
            f"the strategy asks for bars of {interval}, which it doesn't declare",
            hint=f"write intervals = {declared!r} in the class",
        )

    def last(self, interval: str, n: int) -> Bars:
        """Return the last `n` closed bars of an interval. Raises as `find` and `BarSeries.keep`."""
        series = self.find(interval)
        self.reserve(series, n)
        return series.last(n)

    def reserve(self, series: BarSeries, n: int) -> None:
        """Keep `n` bars from now on, and count it if some of them are gone."""
        if series.keep(n):
            self._counts[f"requests for more bars of {series.name} than were kept"] += 1

    def _close(self, series: BarSeries, fold: _Fold) -> None:
        """Append the folded bar, unless its period began before the history or the venue's bar is there."""
        bars, fold.bars = fold.bars, 0
        if not fold.known or fold.start <= series.last_start:
            return
        missing = nan
        if self._gapless:
            missing = float((fold.end - fold.start) // self._base - bars)
            if missing:
                self._counts[f"bars of {series.name} with missing bars"] += 1
        self._append(
            series, fold.start, fold.end, fold.open, fold.high, fold.low, fold.close, fold.volume, missing
        )

    def _append(
        self,
        series: BarSeries,
        start: int,
        end: int,
        opened: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        missing: float,
    ) -> None:
        series.append(start, opened, high, low, close, volume, missing)
        if self._collect:
            self.closed.append(
                Bar(self._symbol, series.name, start, end, opened, high, low, close, volume, missing)
            )
