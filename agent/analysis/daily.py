"""A run by UTC days: what intervals, regimes and rolling figures are made of, whatever its bars are.

A day ends at its last sample, and what closes at midnight belongs to the day that ended then (as in `months`). Days without a
sample, such as a stock market's weekends, are no days.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.core.events import DAY_MS, Fill, FundingPayment

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Closes(NamedTuple):
    """Closes of one symbol: `ts` the bars' closes in UTC ms, rising, and their prices; both of shape (bars,)."""

    ts: Ints
    price: Floats

    def since(self, ts: int) -> Closes:
        """Those after `ts`."""
        first = int(np.searchsorted(self.ts, ts, side="right"))
        return Closes(self.ts[first:], self.price[first:])


class Days(NamedTuple):
    """Values at the end of each day: `day` counts days since 1970, both of shape (days,)."""

    day: Ints
    value: Floats

    def at(self, days: Ints) -> Floats:
        """The value at the end of each of `days`: where a day has none, the one before it; NaN before the first."""
        row = np.searchsorted(self.day, days, side="right") - 1
        return (
            np.where(row < 0, np.nan, self.value[np.maximum(row, 0)])
            if len(self.day)
            else np.full(len(days), np.nan)
        )


def day_of(ts: Ints) -> Ints:
    """UTC ms -> days since 1970; midnight is the end of the day before."""
    return (ts - 1) // DAY_MS


def by_day(ts: Ints, values: Floats) -> Days:
    """The last of `values` on each day; `ts` in UTC ms, rising."""
    days = day_of(ts)
    last = np.flatnonzero(np.append(days[1:] != days[:-1], True)) if len(days) else np.empty(0, np.int64)
    return Days(days[last], values[last])


def returns_of(days: Days, initial: float) -> Days:
    """Simple returns of equity a day, from `initial` before the first; 0 once equity is gone."""
    before = np.concatenate(((initial,), days.value[:-1]))[: len(days.value)]
    grown = np.divide(days.value - before, before, out=np.zeros_like(days.value), where=before > 0)
    return Days(days.day, grown)


def pnl_of(moves: Iterable[Fill | FundingPayment], closes: Closes, days: Ints) -> Floats:
    """What one symbol added to equity on each of `days`: its executions and funding in order, its position at the day's close.

    Before the first close of the symbol a position counts at cost.
    """
    ts, cash, qty = [], [], []
    for move in moves:
        if isinstance(move, Fill):
            signed = float(move.qty) * move.side.sign
            ts.append(move.ts)
            cash.append(-signed * float(move.price) - float(move.fee))
            qty.append(signed)
        else:
            ts.append(move.ts)
            cash.append(float(move.amount))
            qty.append(0.0)
    booked = np.searchsorted(day_of(np.array(ts, np.int64)), days, side="right")
    spent = np.concatenate(((0.0,), np.cumsum(cash)))[booked]
    held = np.concatenate(((0.0,), np.cumsum(qty)))[booked]
    mark = by_day(*closes).at(days)
    worth = spent + np.where(held == 0.0, 0.0, held * mark)
    worth = np.where(np.isnan(worth), 0.0, worth)
    return np.diff(worth, prepend=0.0)
