"""Equal-weight buy-and-hold, the benchmark of a strategy.

Each symbol is bought with an equal share of the capital at its first close and kept. Until a symbol has its
first close, its share stays in cash. Fees, spread and funding are left out, which favours the benchmark over
the strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from agent.analysis.daily import Closes, Floats, Ints, simple_returns
from agent.analysis.equity import EquityCurve

_BLOCK: Final = 8_192


def hold_returns(closes: Sequence[tuple[Ints, Floats]], ends: Ints) -> Floats:
    """Return the buy-and-hold return of each of the periods that end at `ends` (UTC ms), shape (periods,).

    `closes` has the close times (UTC ms, ascending) and prices of each symbol, at least one of each.
    """
    values = []
    for ts, price in closes:
        last = np.searchsorted(ts, ends, side="right") - 1
        values.append(np.where(last < 0, 1.0, price[np.maximum(last, 0)] / price[0]))
    return simple_returns(np.mean(values, axis=0), 1.0)


class BuyAndHoldBenchmark:
    """Equity curve of the equal-weight portfolio, and the return of each symbol held alone; each starts with
    `capital`.

    `interval` is the bar length in ms. Feed bars in time order with `add`, or whole histories with `extend`.
    A symbol without a bar at some time is valued at its last close. Memory use does not depend on the number
    of bars.
    """

    def __init__(self, symbols: Sequence[str], capital: float, interval: int) -> None:
        self._capital = capital
        self._index = {symbol: column for column, symbol in enumerate(symbols)}
        self._first = np.full(len(symbols), np.nan)
        self._last = np.full(len(symbols), np.nan)
        self._symbols: list[int] = []
        self._times: list[int] = []
        self._closes: list[float] = []
        self._parts: list[tuple[Ints, Ints, Floats]] = []  # symbols, times and closes before those
        self._waiting = 0  # bars in the parts
        self._portfolio = EquityCurve(capital, interval)

    def add(self, symbol: str, ts: int, close: float) -> None:
        """Add a closed bar; `ts` is its close time in UTC ms."""
        times = self._times
        if len(times) >= _BLOCK and ts > times[-1]:  # whole periods only
            self._flush()
        self._symbols.append(self._index[symbol])
        times.append(ts)
        self._closes.append(close)

    def add_block(self, symbols: Sequence[str], numbers: Ints | None, ts: Ints, close: Floats) -> None:
        """Add closed bars in time order; each array has shape (n,).

        `numbers` are the bars' indices in `symbols`; None if there is one symbol. The result is that of `add`
        to the last bit, which depends on the periods that are folded together.
        """
        own = np.array([self._index[symbol] for symbol in symbols])
        columns = np.full(len(ts), own[0]) if numbers is None else own[numbers]
        self._keep_part()
        while len(ts):
            before = self._parts[-1][1][-1] if self._parts else ts[0]
            begins = np.flatnonzero(np.diff(ts, prepend=before) > 0)
            begins = begins[begins + self._waiting >= _BLOCK]
            row = int(begins[0]) if len(begins) else len(ts)
            self._parts.append((columns[:row], ts[:row], close[:row]))
            self._waiting += row
            if len(begins):
                self._flush()
            columns, ts, close = columns[row:], ts[row:], close[row:]

    def extend(self, closes: Mapping[str, Closes]) -> None:
        """Add many bars by symbol; all must be later than those added before."""
        self._flush()
        given = [own.ts for own in closes.values() if len(own.ts)]
        if not given:
            return
        # with the counts, since without them numpy would import its masked arrays
        times, _ = np.unique(np.concatenate(given), return_counts=True)
        table = np.full((len(times), len(self._index)), np.nan)
        for symbol, own in closes.items():
            table[np.searchsorted(times, own.ts), self._index[symbol]] = own.price
        self._fold_all(times, table)

    @property
    def portfolio(self) -> EquityCurve:
        """Equity of the portfolio: equal weights at the start, never rebalanced."""
        self._flush()
        return self._portfolio

    @property
    def symbol_returns(self) -> dict[str, float]:
        """The return of each symbol that had a bar, if it alone was held."""
        self._flush()
        finals = self._last * (self._capital / self._first)
        return {
            symbol: float(finals[column]) / self._capital - 1
            for symbol, column in self._index.items()
            if not np.isnan(self._first[column])
        }

    @property
    def last_closes(self) -> dict[str, float]:
        """The last close of each symbol that had a bar."""
        return {symbol: float(self._last[self._index[symbol]]) for symbol in self.symbol_returns}

    def _keep_part(self) -> None:
        """Move the bars of `add` to the parts."""
        if self._times:
            times, closes = np.array(self._times, np.int64), np.array(self._closes)
            self._parts.append((np.array(self._symbols), times, closes))
            self._waiting += len(times)
            self._symbols.clear()
            self._times.clear()
            self._closes.clear()

    def _flush(self) -> None:
        self._keep_part()
        if not self._waiting:
            return
        symbols, all_times, prices = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts, self._waiting = [], 0
        times, row = np.unique(all_times, return_inverse=True)
        closes = np.full((len(times), len(self._index)), np.nan)
        closes[row, symbols] = prices
        self._fold_all(times, closes)

    def _fold_all(self, times: Ints, closes: Floats) -> None:
        """Fold closes of shape (times, symbols); NaN if a symbol had no bar."""
        values = np.empty_like(closes)
        for column in self._index.values():
            values[:, column] = self._fold(column, closes[:, column])
        self._portfolio.extend(times, values.mean(axis=1))

    def _fold(self, column: int, closes: Floats) -> Floats:
        """Fold the closes of one symbol (NaN without a bar) and return the value of the capital in it."""
        seen = ~np.isnan(closes)
        if not seen.any():
            held = np.full(len(closes), self._last[column])
        else:
            if np.isnan(self._first[column]):
                self._first[column] = closes[seen][0]
            known = np.maximum.accumulate(np.where(seen, np.arange(len(closes)), -1))
            held = np.where(known < 0, self._last[column], closes[known])
            self._last[column] = held[-1]
        return np.where(np.isnan(held), self._capital, held * (self._capital / self._first[column]))
