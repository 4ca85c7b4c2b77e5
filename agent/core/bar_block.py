"""Columns of closed bars, which replays handle without an event object for each bar."""

from __future__ import annotations

from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.events import Kline

CHUNK: Final = 32
"""Bars of a chunk, for which a block knows the extreme prices."""

_FIELDS: Final = ("open", "high", "low", "close", "volume", "turnover")
_VALUES: Final = 5
"""Values of a bar without the turnover."""


class BarRows:
    """Bars of a block as lists; the bar at row r has index r - `first`."""

    __slots__ = ("close", "end", "first", "high", "low", "number", "open", "start", "volume")

    def __init__(
        self, first: int, number: list[int], start: list[int], end: list[int], values: list[list[float]]
    ) -> None:
        self.first: int = first
        self.number = number
        self.start = start
        self.end = end
        self.open, self.high, self.low, self.close, self.volume = values


class PriceRanges:
    """The extreme prices of one symbol in each chunk of a block; an infinite one if it has no bar there."""

    __slots__ = ("close_high", "close_low", "high", "low")

    def __init__(self, low: list[float], high: list[float], closes: tuple[list[float], list[float]]) -> None:
        self.low = low
        self.high = high
        self.close_low, self.close_high = closes


class BarBlock:
    """Consecutive closed bars of one interval in the total order of events, of one symbol or several.

    Each bar is available at its close. Lists and event objects are made when they are needed.

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
        self.start: Any = start
        self.end: Any = end
        self.values: Any = values
        self.close: Any = values[_FIELDS.index("close")]
        self._rows: BarRows | None = None
        self._klines: list[Kline] = []
        self._ranges: list[PriceRanges] = []
        self._gapless: list[bool] = []

    def __len__(self) -> int:
        return len(self.start)

    def rows(self) -> BarRows:
        """Return the lists of all bars, which are kept."""
        if self._rows is None:
            self._rows = self.part(0, len(self.start))
        return self._rows

    def part(self, first: int, last: int) -> BarRows:
        """Return the lists of the bars `first` to `last` - 1."""
        if self._rows is not None:
            return self._rows
        return self._lists(first, slice(first, last))

    def _lists(self, first: int, part: Any) -> BarRows:
        start = self.start[part].tolist()
        numbers = [0] * len(start) if self.numbers is None else self.numbers[part].tolist()
        values = [column[part].tolist() for column in self.values[:_VALUES]]
        return BarRows(first, numbers, start, self.end[part].tolist(), values)

    def part_of(self, number: int, first: int, last: int) -> BarRows:
        """Return the lists of one symbol's bars among `first` to `last` - 1."""
        if self.numbers is None:
            return self._lists(first, slice(first, last))
        return self._lists(first, first + np.flatnonzero(self.numbers[first:last] == number))

    def klines(self) -> list[Kline]:
        """Return the events of all bars."""
        if not self._klines:
            rows = self.rows()
            symbols: Any = repeat(self.symbols[0])
            if self.numbers is not None:
                symbols = [self.symbols[number] for number in rows.number]
            columns: list[Any] = [rows.open, rows.high, rows.low, rows.close, rows.volume]
            columns += [column.tolist() for column in self.values[_VALUES:]]
            # `map` over columns runs no Python code per bar
            times = repeat(self.interval), rows.start, rows.end, rows.end
            self._klines = list(map(Kline, symbols, *times, *columns))
        return self._klines

    def symbol(self, row: int) -> str:
        """Return the symbol of a bar."""
        return self.symbols[0 if self.numbers is None else int(self.numbers[row])]

    def span(self, number: int, first: int, last: int) -> tuple[int, int]:
        """Return a symbol's first and last bar among `first` to `last` - 1; (-1, -1) without one."""
        if self.numbers is None:
            return first, last - 1
        rows = np.flatnonzero(self.numbers[first:last] == number)
        return (first + int(rows[0]), first + int(rows[-1])) if len(rows) else (-1, -1)

    def kline(self, row: int) -> Kline:
        """Return the event of one bar."""
        if self._klines:
            return self._klines[row]
        end = int(self.end[row])
        values: list[Any] = [float(column[row]) for column in self.values]
        return Kline(self.symbol(row), self.interval, int(self.start[row]), end, end, *values)

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
                lows = [np.minimum.reduceat(column, edges).tolist() for column in least]
                highs = [np.maximum.reduceat(column, edges).tolist() for column in most]
                self._ranges.append(PriceRanges(lows[0], highs[0], (lows[1], highs[1])))
        return self._ranges

    def gapless(self) -> list[bool]:
        """Return for each chunk whether each of its bars begins when its symbol's last one of the block ends;
        it is False for the chunk of a symbol's first bar.
        """
        if not self._gapless:
            n = len(self.start)
            follows = np.zeros(n, np.bool_)
            for number in range(len(self.symbols)):
                rows = np.arange(n) if self.numbers is None else np.flatnonzero(self.numbers == number)
                follows[rows[1:]] = self.start[rows[1:]] == self.end[rows[:-1]]
            self._gapless = np.logical_and.reduceat(follows, np.arange(0, n, CHUNK)).tolist()
        return self._gapless
