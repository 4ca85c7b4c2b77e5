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
    """What each period brought, a day or one bar longer than a day; all of shape (periods,)."""

    day: Ints  # that it ends on, since 1970, rising
    own: Floats  # return of equity, or what a symbol added to it over equity at the period's beginning
    pnl: Floats  # quote currency
    hold: Floats  # return of holding; NaN where it isn't known


class Group(msgspec.Struct, frozen=True):
    """The periods of one name together. Returns are compounded over these periods alone; None if undefined.

    - `sharpe`: mean over sample deviation of the returns × √(periods a year), None below `FEW_PERIODS` periods.
    - `max_drawdown`: the deepest fall of these periods' returns put one after the other, a fraction <= 0.
    - `trades`, `win_rate`: of round trips entered in these periods and closed since.
    """

    periods: int
    share: float  # of all periods
    total_return: float
    hold: float | None
    sharpe: float | None
    max_drawdown: float
    pnl: float
    trades: int
    win_rate: float | None


FEW_PERIODS = 20
"""No Sharpe ratio is stated of fewer."""


def break_down(
    names: Sequence[str],
    daily: DailyResult,
    trades: Iterable[Trade],
    per_year: float,
    order: Sequence[str] = (),
) -> dict[str, Group]:
    """The groups of periods with the same of `names` (one a period): in `order`, then the others in order of appearance.

    `per_year` is the number of periods in a year.
    """
    wins: dict[int, list[bool]] = {}
    closed = [trade for trade in trades if trade.exit_ts is not None]
    entered = np.searchsorted(daily.day, day_of(np.array([trade.entry_ts for trade in closed], np.int64)))
    for period, trade in zip(np.minimum(entered, len(daily.day) - 1).tolist(), closed, strict=True):
        wins.setdefault(period, []).append(trade.pnl > 0)
    labels = np.array(names, dtype=object)
    present = list(dict.fromkeys(names))
    found = [name for name in order if name in present] + [name for name in present if name not in order]
    return {name: _group(labels == name, daily, wins, per_year) for name in found}


def _group(
    which: NDArray[np.bool_], daily: DailyResult, wins: dict[int, list[bool]], per_year: float
) -> Group:
    own, hold = daily.own[which], daily.hold[which]
    won = [win for period in np.flatnonzero(which).tolist() for win in wins.get(period, ())]
    growth = np.concatenate(((1.0,), np.cumprod(1 + own)))
    deviation = float(own.std(ddof=1)) if len(own) >= FEW_PERIODS else 0.0
    held = hold[~np.isnan(hold)]
    return Group(
        periods=len(own),
        share=len(own) / len(which),
        total_return=float(growth[-1] - 1),
        hold=float(np.prod(1 + held) - 1) if len(held) else None,
        sharpe=float(own.mean()) / deviation * per_year**0.5 if deviation > 1e-12 else None,
        max_drawdown=float((growth / np.maximum.accumulate(growth) - 1).min()),
        pnl=float(daily.pnl[which].sum()),
        trades=len(won),
        win_rate=sum(won) / len(won) if won else None,
    )
