"""A run's days told apart: by the market's regime, by year, or by whatever else names a day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Floats, Ints, day_of
from agent.analysis.trades import Trade


class DailyResult(NamedTuple):
    """What each day brought; all of shape (days,)."""

    day: Ints  # since 1970
    own: Floats  # return of equity, or what a symbol added to it over equity at the day's beginning
    pnl: Floats  # quote currency
    hold: Floats  # return of holding; NaN where it isn't known


class Group(msgspec.Struct, frozen=True):
    """The days of one name together. Returns are compounded over these days alone; None where undefined.

    - `sharpe`: mean over sample deviation of the daily returns × √(days a year), None below `FEW_DAYS` days.
    - `max_drawdown`: the deepest fall of these days' returns put one after the other, a fraction <= 0.
    - `trades`, `win_rate`: of round trips entered on these days and closed since.
    """

    days: int
    share: float  # of all days
    total_return: float
    hold: float | None
    sharpe: float | None
    max_drawdown: float
    pnl: float
    trades: int
    win_rate: float | None


FEW_DAYS = 20
"""No Sharpe ratio is stated of fewer."""


def break_down(
    names: Sequence[str], daily: DailyResult, trades: Iterable[Trade], days_per_year: float, order: Sequence[str] = ()
) -> dict[str, Group]:
    """The groups of days with the same of `names` (one a day): in `order`, those it lacks behind in order of appearance."""
    wins: dict[int, list[bool]] = {}
    closed = [trade for trade in trades if trade.exit_ts is not None]
    for day, trade in zip(day_of(np.array([trade.entry_ts for trade in closed], np.int64)).tolist(), closed, strict=True):
        wins.setdefault(day, []).append(trade.pnl > 0)
    labels = np.array(names, dtype=object)
    present = list(dict.fromkeys(names))
    found = [name for name in order if name in present] + [name for name in present if name not in order]
    return {name: _group(labels == name, daily, wins, days_per_year) for name in found}


def _group(which: NDArray[np.bool_], daily: DailyResult, wins: dict[int, list[bool]], days_per_year: float) -> Group:
    own, hold = daily.own[which], daily.hold[which]
    won = [win for day in daily.day[which].tolist() for win in wins.get(day, ())]
    growth = np.concatenate(((1.0,), np.cumprod(1 + own)))
    deviation = float(own.std(ddof=1)) if len(own) >= FEW_DAYS else 0.0
    held = hold[~np.isnan(hold)]
    return Group(
        days=len(own),
        share=len(own) / len(which),
        total_return=float(growth[-1] - 1),
        hold=float(np.prod(1 + held) - 1) if len(held) else None,
        sharpe=float(own.mean()) / deviation * days_per_year**0.5 if deviation > 1e-12 else None,
        max_drawdown=float((growth / np.maximum.accumulate(growth) - 1).min()),
        pnl=float(daily.pnl[which].sum()),
        trades=len(won),
        win_rate=sum(won) / len(won) if won else None,
    )
