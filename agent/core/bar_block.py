"""Columns of closed bars, which replays handle without an event object for each bar."""

from __future__ import annotations

from itertools import repeat
from math import inf, nan
from typing import Any, Final, TypeVar

import numpy as np
from librt.vecs import append, vec
from mypy_extensions import i64
from numpy.typing import NDArray

from agent.core.errors import StrategyError
from agent.core.events import Kline
from agent.core.features import Features, FeatureTracker

CHUNK: Final = 32
"""Bars of a chunk, for which a block knows the extreme prices."""

Column = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

_FIELDS: Final = ("open", "high", "low", "close", "volume", "turnover")


def _packed(column: Column) -> vec[float]:
    return vec[float](np.ascontiguousarray(column))


def _read_only(array: NDArray[T]) -> NDArray[T]:
    array.flags.writeable = False
    return array


class PriceRanges:
    """The extreme prices of one symbol in each chunk of a block; an infinite one if it has no bar there."""

    __slots__ = ("close_high", "close_low", "high", "low")

    def __init__(self, low: Column, high: Column, close_low: Column, close_high: Column) -> None:
        self.low: vec[float] = vec[float](low)
        self.high: vec[float] = vec[float](high)
        self.close_low: vec[float] = vec[float](close_low)
        self.close_high: vec[float] = vec[float](close_high)


class _FeatureColumn:
    """One feature, by its number in `Features`, at consecutive bars."""

    __slots__ = ("number", "values")

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.values: vec[float] = vec[float]()


class FeaturesAhead:
    """The features of one symbol at bars of a block that its own tracker has yet to see."""

    def __init__(self, block: BarBlock, number: int, tracker: FeatureTracker) -> None:
        """`tracker` is the symbol's own."""
        self._block = block
        self._number: int = number
        self._own = tracker
        self._ahead = FeatureTracker()
        self._first: int = 0  # index among the symbol's bars of the first one that has been seen ahead
        self._next: int = -1
        self._columns: dict[str, _FeatureColumn] = {}  # from `_first` on

    def column(self, name: str, first: int, last: int) -> list[float]:
        """Return a feature at the symbol's bars `first` to `last` - 1. The tracker has seen the bars before
        `first`. Raises StrategyError if there is no such feature.
        """
        values = self._seen(name, first, last).values
        return list(values[first - self._first : last - self._first])

    def first_beyond(
        self, name: str, first: i64, last: i64, below: float, above: float, weight: float, offset: float
    ) -> int:
        """Return the first of the symbol's bars `first` to `last` - 1 at which offset + weight * feature is
        beyond a bound, as an index from `first` on; see `column`.
        """
        values = self._seen(name, first, last).values
        begin: i64 = self._first
        for index in range(first - begin, last - begin):
            level = offset + weight * values[index]
            if level < below or level > above:
                return index + begin - first
        return last - first

    def _seen(self, name: str, first: int, last: int) -> _FeatureColumn:
        """Return a feature from the bar `_first` on, at least up to `last` - 1; see `column`."""
        seen = self._ahead.bars - self._own.bars  # bars that only the copy has seen
        column = self._columns.get(name)
        if column is None or first < self._first or self._next - first != seen:
            column = self._begin(name, first)
        if self._next < last:
            self._extend(last)
        return column

    def _begin(self, name: str, first: int) -> _FeatureColumn:
        """Look ahead from the bar `first` on, at one feature more; return its column."""
        if name not in Features._fields:
            raise StrategyError(
                f"there is no feature {name!r}", hint=f"features are {', '.join(Features._fields)}"
            )
        self._ahead.take(self._own)
        self._first = self._next = first
        names = (*self._columns, name)
        self._columns = {known: _FeatureColumn(Features._fields.index(known)) for known in names}
        return self._columns[name]

    def _extend(self, last: int) -> None:
        ahead, block = self._ahead, self._block
        rows, columns = block.rows_of(self._number), list(self._columns.values())
        for index in range(self._next, last):
            block.add_to(ahead, index if rows is None else int(rows[index]))
            for column in columns:
                column.values = append(column.values, ahead.value(column.number))
        self._next = last

    def advance(self, first: int, last: int) -> bool:
        """Let the symbol's own tracker, which has seen the bars before `first`, see those before `last`, if
        the copy has seen just these; return whether it did.
        """
        if self._next != last or self._ahead.bars - self._own.bars != last - first:
            return False
        self._own.take(self._ahead)
        return True


class BarSpan:
    """Closed bars of one symbol that come next in a backtest, as read-only columns, oldest first.

    `Strategy.quiet_bars` and `Strategy.pass_over` receive them.
    """

    def __init__(
        self, block: BarBlock, number: int, first: int, last: int, features: FeaturesAhead | None
    ) -> None:
        """The bars are those of the symbol `number` at `first` to `last` - 1 among its own of the block."""
        self._block = block
        self._number: int = number
        self._features = features
        self._first: int = first
        self._last: int = last
        self.symbol: str = block.symbols[number]

    def __len__(self) -> int:
        return self._last - self._first

    def _part(self, column: NDArray[T]) -> NDArray[T]:
        rows = self._block.rows_of(self._number)
        part = slice(self._first, self._last)
        found: NDArray[T] = column[part] if rows is None else _read_only(column[rows[part]])
        return found

    @property
    def start(self) -> NDArray[np.int64]:
        """Open times, UTC ms."""
        return self._part(self._block.start)

    @property
    def end(self) -> NDArray[np.int64]:
        """Close times, UTC ms."""
        return self._part(self._block.end)

    @property
    def open(self) -> Column:
        return self._part(self._block.values[0])

    @property
    def high(self) -> Column:
        return self._part(self._block.values[1])

    @property
    def low(self) -> Column:
        return self._part(self._block.values[2])

    @property
    def close(self) -> Column:
        return self._part(self._block.close)

    @property
    def volume(self) -> Column:
        """In base coin or shares."""
        return self._part(self._block.values[4])

    @property
    def last_end(self) -> int:
        """Close time of the last bar, UTC ms."""
        return self._block.ends[self._block.row_of(self._number, self._last - 1)]

    def packed_closes(self) -> vec[float]:
        """Return the closes for compiled code, which reads them one at a time."""
        rows = self._block.rows_of(self._number)
        if rows is None:
            return self._block.closes[self._first : self._last]
        return _packed(self._block.close[rows[self._first : self._last]])

    def feature(self, name: str) -> list[float]:
        """Return one of the ten features, such as `return_20`, at each bar; NaN until it is defined.

        It is a list, since spans are often short.
        Raises StrategyError if there is no such feature, or the strategy declares that it reads none.
        """
        return self._ahead().column(name, self._first, self._last)

    def first_beyond(
        self,
        name: str,
        *,
        below: float = -inf,
        above: float = inf,
        weight: float = 1.0,
        offset: float = 0.0,
    ) -> int:
        """Return the index of the first bar at which offset + weight * feature is below `below` or above
        `above`; the number of bars without one. NaN is beyond no bound.

        Raises StrategyError as `feature`.
        """
        return self._ahead().first_beyond(name, self._first, self._last, below, above, weight, offset)

    def _ahead(self) -> FeaturesAhead:
        if self._features is None:
            raise StrategyError(
                "the strategy reads features, and its class has reads_features = False",
                hint="leave reads_features out",
            )
        return self._features


class BarBlock:
    """Consecutive closed bars of one interval in the total order of events, of one symbol or several.

    Each bar is available at its close. Event objects are made when they are needed. The columns are arrays,
    and for compiled code, which reads one value at a time, also packed values (`starts`, `closes` …).

    Args:
        symbols: of the bars.
        interval: in ms.
        numbers: index in `symbols` of each bar, shape (n,); None if there is one symbol.
        start: open times, UTC ms, shape (n,).
        end: close times, UTC ms, shape (n,).
        values: open, high, low, close, volume and, if known, turnover, each of shape (n,).
    """

    def __init__(
        self,
        symbols: tuple[str, ...],
        interval: int,
        numbers: NDArray[np.int64] | None,
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        values: tuple[NDArray[np.float64], ...],
    ) -> None:
        self.symbols = symbols
        self.interval: int = interval
        self.numbers: Any = numbers
        self.start: Any = _read_only(start.view())
        self.end: Any = _read_only(end.view())
        self.values: Any = tuple(_read_only(column.view()) for column in values)
        self.close: Any = self.values[_FIELDS.index("close")]
        opened, high, low, close, volume, *turnover = map(_packed, values)
        self.starts: vec[i64] = vec[i64](np.ascontiguousarray(start))
        self.ends: vec[i64] = vec[i64](np.ascontiguousarray(end))
        self.opens: vec[float] = opened
        self.highs: vec[float] = high
        self.lows: vec[float] = low
        self.closes: vec[float] = close
        self.volumes: vec[float] = volume
        self.turnovers: vec[float] = turnover[0] if turnover else _packed(np.full(len(start), nan))
        self._numbers: vec[i64] = vec[i64]([] if numbers is None else np.ascontiguousarray(numbers))
        self._klines: list[Kline] = []
        self._ranges: list[PriceRanges] = []
        self._gapless: list[bool] = []
        self._own: list[Any] = []  # the rows of each symbol, if there are several

    def __len__(self) -> int:
        return len(self.start)

    def number_at(self, row: int) -> int:
        """Return the index in `symbols` of a bar's symbol."""
        return 0 if self.numbers is None else self._numbers[row]

    def add_to(self, tracker: FeatureTracker, row: int) -> None:
        """Add a bar to the features of its symbol."""
        tracker.add(self.starts[row], self.highs[row], self.lows[row], self.closes[row], self.volumes[row])

    def rows_of(self, number: int) -> Any:
        """Return the rows of a symbol, an array; None if all are its."""
        if self.numbers is None:
            return None
        if not self._own:
            self._own = [np.flatnonzero(self.numbers == one) for one in range(len(self.symbols))]
        return self._own[number]

    def row_of(self, number: int, index: int) -> int:
        """Return the row of a symbol's bar, given by its index among the symbol's own."""
        return index if self.numbers is None else int(self.rows_of(number)[index])

    def bounds(self, number: int, first: int, last: int) -> tuple[int, int]:
        """Return the indices, among a symbol's own bars, of its first one from row `first` on, and of its
        first one from row `last` on.
        """
        rows = self.rows_of(number)
        if rows is None:
            return first, last
        return int(rows.searchsorted(first)), int(rows.searchsorted(last))

    def volumes_of(self, number: int, first: int, last: int) -> tuple[vec[i64], vec[float]]:
        """Return the open times and volumes of one symbol's bars among `first` to `last` - 1."""
        begin, end = self.bounds(number, first, last)
        if self.numbers is None:
            return self.starts[begin:end], self.volumes[begin:end]
        rows = self.rows_of(number)[begin:end]
        return vec[i64](self.start[rows]), vec[float](self.values[4][rows])

    def klines(self) -> list[Kline]:
        """Return the events of all bars."""
        if not self._klines:
            symbols: Any = repeat(self.symbols[0])
            if self.numbers is not None:
                symbols = [self.symbols[number] for number in self.numbers.tolist()]
            start, end = self.start.tolist(), self.end.tolist()
            columns: list[Any] = [column.tolist() for column in self.values]
            # `map` over columns runs no Python code per bar
            self._klines = list(map(Kline, symbols, repeat(self.interval), start, end, end, *columns))
        return self._klines

    def symbol(self, row: int) -> str:
        """Return the symbol of a bar."""
        return self.symbols[self.number_at(row)]

    def span(self, number: int, first: int, last: int) -> tuple[int, int]:
        """Return a symbol's first and last bar among `first` to `last` - 1; (-1, -1) without one."""
        begin, end = self.bounds(number, first, last)
        return (self.row_of(number, begin), self.row_of(number, end - 1)) if begin < end else (-1, -1)

    def kline(self, row: int) -> Kline:
        """Return the event of one bar."""
        if self._klines:
            return self._klines[row]
        end = self.ends[row]
        return Kline(
            self.symbol(row),
            self.interval,
            self.starts[row],
            end,
            end,
            self.opens[row],
            self.highs[row],
            self.lows[row],
            self.closes[row],
            self.volumes[row],
            self.turnovers[row],
        )

    def ranges(self) -> list[PriceRanges]:
        """Return the extreme prices in each chunk, by symbol."""
        if not self._ranges:
            edges = np.arange(0, len(self.start), CHUNK)
            _, high, low, close, *_ = self.values
            for number in range(len(self.symbols)):
                least: tuple[Any, ...] = (low, close)
                most: tuple[Any, ...] = (high, close)
                if self.numbers is not None:
                    own = self.numbers == number
                    least = tuple(np.where(own, column, np.inf) for column in least)
                    most = tuple(np.where(own, column, -np.inf) for column in most)
                lows = [np.minimum.reduceat(column, edges) for column in least]
                highs = [np.maximum.reduceat(column, edges) for column in most]
                self._ranges.append(PriceRanges(lows[0], highs[0], lows[1], highs[1]))
        return self._ranges

    def gapless(self) -> list[bool]:
        """Return for each chunk whether each of its bars begins when its symbol's last one of the block ends;
        it is False for the chunk of a symbol's first bar.
        """
        if not self._gapless:
            n = len(self.start)
            follows = np.zeros(n, np.bool_)
            for number in range(len(self.symbols)):
                rows = np.arange(n) if self.numbers is None else self.rows_of(number)
                follows[rows[1:]] = self.start[rows[1:]] == self.end[rows[:-1]]
            self._gapless = np.logical_and.reduceat(follows, np.arange(0, n, CHUNK)).tolist()
        return self._gapless
