"""Buy-and-hold, fed with the same closes as the strategy: what it has to beat.

Each symbol is bought with an equal share of the capital at its first close and never touched again; a share whose symbol has
not begun yet waits as cash. Prices only: no fee, spread or funding, which flatters the benchmark, never the strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Closes
from agent.analysis.equity import EquityCurve
from agent.analysis.thinning import ThinnedCurve

_BLOCK: Final = 8_192


class BuyAndHold:
    """Folds closes into one equity curve a symbol and one of the equal-weight portfolio, all from `capital`.

    `add` takes bars in time order, symbols mixed, `extend` whole histories; a symbol without a bar at some time is valued at its
    last close. Memory does not grow with history.
    """

    def __init__(self, symbols: Sequence[str], capital: float, interval: int) -> None:
        self._capital = capital
        self._index = {symbol: column for column, symbol in enumerate(symbols)}
        self._first = np.full(len(symbols), np.nan)
        self._last = np.full(len(symbols), np.nan)
        self._symbols: list[int] = []
        self._times: list[int] = []
        self._closes: list[float] = []
        self._curves = {symbol: EquityCurve(capital, interval) for symbol in symbols}
        self._portfolio = EquityCurve(capital, interval)
        self._prices = {symbol: ThinnedCurve() for symbol in symbols}

    def add(self, symbol: str, ts: int, close: float) -> None:
        """A closed bar: `ts` its close in UTC ms."""
        times = self._times
        if len(times) >= _BLOCK and ts > times[-1]:  # whole periods only
            self._flush()
        self._symbols.append(self._index[symbol])
        times.append(ts)
        self._closes.append(close)

    def extend(self, closes: Mapping[str, Closes]) -> None:
        """Many bars at once: by symbol, all later than what was added before."""
        self._flush()
        given = [own.ts for own in closes.values() if len(own.ts)]
        if not given:
            return
        times = np.unique(np.concatenate(given))
        table = np.full((len(times), len(self._index)), np.nan)
        for symbol, own in closes.items():
            table[np.searchsorted(times, own.ts), self._index[symbol]] = own.price
        self._fold_all(times, table)

    @property
    def portfolio(self) -> EquityCurve:
        """Equal weight at the start, never rebalanced."""
        self._flush()
        return self._portfolio

    @property
    def symbols(self) -> dict[str, EquityCurve]:
        """All the capital in one symbol, for each that had a bar."""
        self._flush()
        return {
            symbol: curve
            for symbol, curve in self._curves.items()
            if not np.isnan(self._first[self._index[symbol]])
        }

    @property
    def last_closes(self) -> dict[str, float]:
        """By symbol, for each that had a bar."""
        self._flush()
        return {symbol: float(self._last[self._index[symbol]]) for symbol in self.symbols}

    def prices(self, symbol: str) -> tuple[list[int], list[float]]:
        """Closes to draw: times in UTC ms and prices, at most about 4,000 points."""
        self._flush()
        return self._prices[symbol].points()

    def _flush(self) -> None:
        if not self._times:
            return
        times, row = np.unique(np.array(self._times, np.int64), return_inverse=True)
        closes = np.full((len(times), len(self._index)), np.nan)
        closes[row, self._symbols] = self._closes
        self._symbols.clear()
        self._times.clear()
        self._closes.clear()
        self._fold_all(times, closes)

    def _fold_all(self, times: NDArray[np.int64], closes: NDArray[np.float64]) -> None:
        """Closes of shape (times, symbols), NaN where a symbol had no bar."""
        values = np.empty_like(closes)
        for symbol, column in self._index.items():
            values[:, column] = self._fold(symbol, column, times, closes[:, column])
        self._portfolio.extend(times, values.mean(axis=1))

    def _fold(
        self, symbol: str, column: int, times: NDArray[np.int64], closes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Fold one symbol's closes, NaN where it had no bar; returns what the capital is worth at each time."""
        seen = ~np.isnan(closes)
        if not seen.any():
            held = np.full(len(times), self._last[column])
        else:
            if np.isnan(self._first[column]):
                self._first[column] = closes[seen][0]
            known = np.maximum.accumulate(np.where(seen, np.arange(len(times)), -1))
            held = np.where(known < 0, self._last[column], closes[known])
            self._last[column] = held[-1]
            self._curves[symbol].extend(times[seen], closes[seen] * (self._capital / self._first[column]))
            self._prices[symbol].extend(times[seen], closes[seen])
        return np.where(np.isnan(held), self._capital, held * (self._capital / self._first[column]))
