"""What the strategy plots, for the page's chart: the last value of each line in each bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from agent.core.events import Plot
from agent.dashboard.page_rows import PlotRow, VersionedRows

LINES: Final = 8
"""Lines drawn for each symbol: the first ones."""


class PlottedRows:
    """Lines of `symbols` in bars of `interval` ms, at most `bars` of each symbol."""

    def __init__(self, symbols: Sequence[str], interval: int, bars: int) -> None:
        self._symbols = tuple(symbols)
        self._interval = interval
        self._limit = bars * LINES
        self._rows: dict[str, VersionedRows[tuple[int, str], PlotRow]] = {}
        self._names: dict[str, list[str]] = {}

    def add(self, plot: Plot, version: int) -> None:
        """Keep a value; a line of no symbol is drawn for all."""
        # A value that is plotted at a bar's close belongs to that bar
        start = (plot.ts - 1) // self._interval * self._interval
        for symbol in (plot.symbol,) if plot.symbol else self._symbols:
            names = self._names.setdefault(symbol, [])
            if plot.name not in names:
                if len(names) == LINES:
                    continue
                names.append(plot.name)
            rows = self._rows.setdefault(symbol, VersionedRows(self._limit))
            rows.put((start, plot.name), PlotRow(start, plot.name, plot.value), version)

    def since(self, symbol: str, version: int) -> list[PlotRow] | None:
        """Return the rows of a symbol that changed after `version`; None if nothing was plotted for it."""
        rows = self._rows.get(symbol)
        return None if rows is None else rows.since(version)

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = type(self)(self._symbols, self._interval, self._limit // LINES)
        twin._rows = {symbol: rows.copy() for symbol, rows in self._rows.items()}
        twin._names = {symbol: names.copy() for symbol, names in self._names.items()}
        return twin
