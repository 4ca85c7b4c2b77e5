"""Equal-weight buy-and-hold, the benchmark of a strategy.

Each symbol is bought with an equal share of the capital at its first close and kept. Until a symbol has its
first close, its share stays in cash. Fees, spread and funding are left out, which favours the benchmark over
the strategy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
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
    """Equity curve of the equal-weight portfolio, and the result of each symbol held alone; each starts with
    `capital`.

    `interval` is the bar length in ms. Feed bars in time order with `add`, blocks of each symbol's bars with
    `add_block`, or whole histories with `extend`; all give the same curve, except that sums of a history that
    is given whole may differ in the last bits. A symbol without a bar at some time is valued at its last
    close. Memory use does not depend on the number of bars.
    """

    def __init__(self, symbols: Sequence[str], capital: float, interval: int) -> None:
        self._capital = capital
        self._index = {symbol: column for column, symbol in enumerate(symbols)}
        self._first = np.full(len(symbols), np.nan)
        self._last = np.full(len(symbols), np.nan)
        self._symbols: list[int] = []
        self._times: list[int] = []
        self._closes: list[float] = []
        self._blocks: dict[str, list[Closes]] = {}
        self._reached: dict[str, float] = {}  # time of the last bar of each symbol's blocks
        self._portfolio = EquityCurve(capital, interval)

    def add(self, symbol: str, ts: int, close: float) -> None:
        """Add a closed bar; `ts` is its close time in UTC ms."""
        times = self._times
        if len(times) >= _BLOCK and ts > times[-1]:  # whole periods only
            self._flush()
        self._symbols.append(self._index[symbol])
        times.append(ts)
        self._closes.append(close)

    def expect_blocks(self, symbols: Iterable[str]) -> None:
        """Announce that all bars of these symbols come by `add_block`."""
        self._blocks = {symbol: [] for symbol in symbols}
        self._reached = dict.fromkeys(self._blocks, -inf)

    def add_block(self, symbol: str, closes: Closes) -> None:
        """Add a symbol's next bars, any number of them; other symbols' may be ahead or behind."""
        if len(closes.ts):
            self._blocks[symbol].append(closes)
            self._reached[symbol] = int(closes.ts[-1])
            self._fold_blocks()

    def end_blocks(self, symbol: str) -> None:
        """State that the symbol has no further bars."""
        self._reached[symbol] = inf
        self._fold_blocks()

    def extend(self, closes: Mapping[str, Closes]) -> None:
        """Add many bars by symbol; all must be later than those added before."""
        self._flush()
        self._fold(closes)

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

    def _fold_blocks(self, *, all_of_them: bool = False) -> None:
        """Fold whole periods of the blocks, in the same portions as bars that are added one by one."""
        limit = inf if all_of_them else min(self._reached.values())
        waiting = {symbol: _joined(blocks) for symbol, blocks in self._blocks.items() if blocks}
        ready = sum(int(np.searchsorted(own.ts, limit, side="right")) for own in waiting.values())
        if not waiting or (ready <= _BLOCK and not all_of_them):
            return
        times = np.sort(np.concatenate([own.ts for own in waiting.values()]))[:ready]
        while ready > _BLOCK:
            end = int(np.searchsorted(times, times[_BLOCK - 1], side="right"))
            if end == ready:  # the period may go on
                break
            last = times[end - 1]
            self._fold({symbol: own.until(last) for symbol, own in waiting.items()})
            waiting = {symbol: own.since(last) for symbol, own in waiting.items()}
            times, ready = times[end:], ready - end
        if all_of_them:
            self._fold(waiting)
            waiting = {}
        self._blocks = {symbol: [waiting[symbol]] if symbol in waiting else [] for symbol in self._blocks}

    def _flush(self) -> None:
        if self._blocks:
            self._fold_blocks(all_of_them=True)
        if not self._times:
            return
        times, row = np.unique(np.array(self._times, np.int64), return_inverse=True)
        closes = np.full((len(times), len(self._index)), np.nan)
        closes[row, self._symbols] = self._closes
        self._symbols.clear()
        self._times.clear()
        self._closes.clear()
        self._fold_table(times, closes)

    def _fold(self, closes: Mapping[str, Closes]) -> None:
        given = [own.ts for own in closes.values() if len(own.ts)]
        if not given:
            return
        # with the counts, since without them numpy would import its masked arrays
        times, _ = np.unique(np.concatenate(given), return_counts=True)
        table = np.full((len(times), len(self._index)), np.nan)
        for symbol, own in closes.items():
            table[np.searchsorted(times, own.ts), self._index[symbol]] = own.price
        self._fold_table(times, table)

    def _fold_table(self, times: Ints, closes: Floats) -> None:
        """Fold closes of shape (times, symbols); NaN if a symbol had no bar."""
        values = np.empty_like(closes)
        for column in self._index.values():
            values[:, column] = self._worth(column, closes[:, column])
        self._portfolio.extend(times, values.mean(axis=1))

    def _worth(self, column: int, closes: Floats) -> Floats:
        """Return the value of the capital in one symbol, by its closes (NaN without a bar)."""
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


def _joined(blocks: Sequence[Closes]) -> Closes:
    if len(blocks) == 1:
        return blocks[0]
    return Closes(np.concatenate([own.ts for own in blocks]), np.concatenate([own.price for own in blocks]))
