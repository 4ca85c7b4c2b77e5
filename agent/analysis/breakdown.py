"""Performance by groups of periods: by market regime, by year, or by any other label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Floats, Ints, day_of
from agent.analysis.trades import RoundTrip


class PeriodResults(NamedTuple):
    """Results of each period, which is a day, or one bar if bars are longer; all of shape (periods,)."""

    day: Ints  # last day of the period, in days since 1970, ascending
    own: Floats  # return of equity, or the profit of a symbol over the equity at the start of the period
    pnl: Floats  # quote currency
    hold: Floats  # return of buy-and-hold; NaN if unknown


class PeriodGroup(msgspec.Struct, frozen=True):
    """Figures of all periods with the same label. Returns are compounded over these periods only.

    None stands for an undefined figure.

    - `sharpe`: mean over sample deviation of the returns × √(periods a year); None for fewer than
      `FEW_PERIODS` periods.
    - `max_drawdown`: the deepest fall of the compounded returns of these periods, a fraction <= 0.
    - `trades`, `win_rate`: of closed round trips that were entered in these periods.
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
"""A group of fewer periods has no Sharpe ratio."""


def break_down(
    labels: Sequence[str],
    results: PeriodResults,
    trades: Iterable[RoundTrip],
    per_year: float,
    order: Sequence[str] = (),
) -> dict[str, PeriodGroup]:
    """Group the periods by `labels` (one per period); `per_year` is the number of periods in a year.

    Groups come in the given `order`, then in order of appearance.
    """
    wins: dict[int, list[bool]] = {}
    closed = [trade for trade in trades if trade.exit_ts is not None]
    entered = np.searchsorted(results.day, day_of(np.array([trade.entry_ts for trade in closed], np.int64)))
    for period, trade in zip(np.minimum(entered, len(results.day) - 1).tolist(), closed, strict=True):
        wins.setdefault(period, []).append(trade.pnl > 0)
    array = np.array(labels, dtype=object)
    present = list(dict.fromkeys(labels))
    first = [label for label in order if label in present]
    rest = [label for label in present if label not in order]
    return {label: _group(array == label, results, wins, per_year) for label in first + rest}


def _group(
    which: NDArray[np.bool_], results: PeriodResults, wins: dict[int, list[bool]], per_year: float
) -> PeriodGroup:
    own, hold = results.own[which], results.hold[which]
    won = [win for period in np.flatnonzero(which).tolist() for win in wins.get(period, ())]
    growth = np.concatenate(((1.0,), np.cumprod(1 + own)))
    deviation = float(own.std(ddof=1)) if len(own) >= FEW_PERIODS else 0.0
    held = hold[~np.isnan(hold)]
    return PeriodGroup(
        periods=len(own),
        share=len(own) / len(which),
        total_return=float(growth[-1] - 1),
        hold=float(np.prod(1 + held) - 1) if len(held) else None,
        sharpe=float(own.mean()) / deviation * per_year**0.5 if deviation > 1e-12 else None,
        max_drawdown=float((growth / np.maximum.accumulate(growth) - 1).min()),
        pnl=float(results.pnl[which].sum()),
        trades=len(won),
        win_rate=sum(won) / len(won) if won else None,
    )
