"""Series by UTC day: the basis of intervals, regimes, rolling figures and breakdowns for any bar length.

The value of a day is its last sample. A bar that closes at midnight belongs to the day (and the month) that
ends then.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from agent.core.events import DAY_MS, Fill, FundingPayment

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Closes(NamedTuple):
    """Close times (UTC ms, ascending) and closing prices of one symbol; both have shape (bars,)."""

    ts: Ints
    price: Floats

    def since(self, ts: int) -> Closes:
        """Return the closes after `ts`."""
        first = int(np.searchsorted(self.ts, ts, side="right"))
        return Closes(self.ts[first:], self.price[first:])


class DailyValues(NamedTuple):
    """One value per day: `day` counts days since 1970, ascending. Both have shape (days,).

    A day without a sample, such as a weekend of a stock market, is left out.
    """

    day: Ints
    value: Floats

    def at(self, days: Ints) -> Floats:
        """Return the values of `days`, carried forward over missing days; NaN before the first value."""
        if not len(self.day):
            return np.full(len(days), np.nan)
        row = np.searchsorted(self.day, days, side="right") - 1
        return np.where(row < 0, np.nan, self.value[np.maximum(row, 0)])

    def returns(self, initial: float) -> DailyValues:
        """Return the simple return of each day; `initial` is the value before the first one."""
        return DailyValues(self.day, simple_returns(self.value, initial))


# -- the calendar ------------------------------------------------------------------------------------


def day_of(ts: Ints) -> Ints:
    """Convert UTC ms to days since 1970; midnight is the end of the day before."""
    return (ts - 1) // DAY_MS


def months_of(ts: Ints) -> NDArray[np.datetime64]:
    """Convert UTC ms to months."""
    return (ts - 1).astype("datetime64[ms]").astype("datetime64[M]")


def month_of(ts: int) -> str:
    """Return the month of a time in UTC ms, for example "2024-03"."""
    return _month_of_day((ts - 1) // DAY_MS)


@lru_cache(maxsize=1_024)
def _month_of_day(day: int) -> str:
    return str(np.datetime64(day, "D").astype("datetime64[M]"))


def last_of_day(ts: Ints, values: Floats) -> DailyValues:
    """Return the last of `values` on each day that has one; `ts` is in UTC ms, ascending."""
    days = day_of(ts)
    last = np.flatnonzero(np.append(days[1:] != days[:-1], True)) if len(days) else np.empty(0, np.int64)
    return DailyValues(days[last], values[last])


# -- returns -----------------------------------------------------------------------------------------


def simple_returns(values: Floats, initial: float) -> Floats:
    """Return the simple return of each value on the one before it, `initial` for the first.

    A return on a value at or below zero counts as 0, so that a lost account stays lost.
    """
    before = np.concatenate(((initial,), values[:-1]))[: len(values)]
    returns: Floats = np.divide(values - before, before, out=np.zeros_like(values), where=before > 0)
    return returns


def daily_returns(ts: ArrayLike, equity: ArrayLike, initial: float) -> tuple[Ints, Floats]:
    """Return the ends (UTC ms) and the simple returns of all calendar days from the first sample to the last.

    `ts` ascends and `initial` is the equity before the first sample. A day without a sample has the return 0.
    The first and the last day may be incomplete, so that the returns compound to the total return.
    """
    times, values = np.asarray(ts, np.int64), np.asarray(equity, np.float64)
    if not len(times):
        return np.empty(0, np.int64), np.empty(0)
    sampled = last_of_day(times, values)
    days = np.arange(sampled.day[0], sampled.day[-1] + 1)
    return np.minimum((days + 1) * DAY_MS, times[-1]), simple_returns(sampled.at(days), initial)


class PeriodSampler:
    """Keeps the last equity of each period, and computes the returns of the periods in sequence.

    A period ends at a multiple of `period` (ms) in UTC. `initial` is the equity before the first sample. With
    a period of a day the returns are those of `daily_returns`.
    """

    def __init__(self, initial: float, period: int) -> None:
        self.period = period
        self._initial = initial
        self._ends: list[float] = []  # equity at the end of each period, up to the last one
        self._number: int | None = None  # of the last period
        self._last = initial

    def extend(self, ts: Ints, equity: Floats) -> None:
        """Add samples; `ts` (UTC ms, ascending) and `equity` have shape (n,)."""
        if not len(ts):
            return
        first, last = int((ts[0] - 1) // self.period), int((ts[-1] - 1) // self.period)
        if self._number is not None:
            self._ends += [self._last] * (first - self._number)
        if last > first:
            ends = (np.arange(first, last) + 1) * self.period
            self._ends += equity[np.searchsorted(ts, ends, side="right") - 1].tolist()
        self._number, self._last = last, float(equity[-1])

    def returns(self) -> Floats:
        """Return the simple return of each period from the first sample to the last, shape (periods,)."""
        if self._number is None:
            return np.empty(0)
        return simple_returns(np.array([*self._ends, self._last]), self._initial)


def rolling_sharpe(returns: DailyValues, window: int, per_year: float) -> DailyValues:
    """Return the Sharpe ratio of the last `window` returns: mean over sample deviation × √`per_year`.

    The first `window` - 1 days have none. The ratio is 0 if all returns of the window are equal, for example
    if the strategy held no position.
    """
    if len(returns.value) < window:
        return DailyValues(returns.day[:0], returns.value[:0])
    windows = sliding_window_view(returns.value, window)
    mean, deviation = windows.mean(axis=1), windows.std(axis=1, ddof=1)
    moved = deviation > 1e-12
    ratio = np.where(moved, mean / np.where(moved, deviation, 1.0), 0.0) * per_year**0.5
    return DailyValues(returns.day[window - 1 :], ratio)


def daily_pnl(moves: Iterable[Fill | FundingPayment], closes: Closes, days: Ints) -> Floats:
    """Return what one symbol added to equity on each of `days`, in quote currency.

    `moves` are its fills and funding payments in booking order. A position is valued at the last close of the
    day, or at cost before the symbol's first close.
    """
    ts, cash, qty = [], [], []
    for move in moves:
        ts.append(move.ts)
        if isinstance(move, Fill):
            signed = float(move.qty) * move.side.sign
            cash.append(-signed * float(move.price) - float(move.fee))
            qty.append(signed)
        else:
            cash.append(float(move.amount))
            qty.append(0.0)
    booked = np.searchsorted(day_of(np.array(ts, np.int64)), days, side="right")
    spent = np.concatenate(((0.0,), np.cumsum(cash)))[booked]
    held = np.concatenate(((0.0,), np.cumsum(qty)))[booked]
    mark = last_of_day(*closes).at(days)
    worth = spent + np.where(held == 0.0, 0.0, held * mark)
    worth = np.where(np.isnan(worth), 0.0, worth)
    return np.diff(worth, prepend=0.0)
