"""Two equity curves over the time that they have in common, and a bootstrap of their difference.

The returns of both curves are taken over the same periods and resampled together, so that moves which both
share cancel out (`significance.difference`). Days are used if there are enough of them, else hours, else
bars.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np

from agent.analysis.daily import Floats, Ints, simple_returns
from agent.analysis.report import formats
from agent.analysis.run_metrics import YEAR_MS
from agent.analysis.significance import DRAWS, MIN_PERIODS, Difference, block_length, difference, sharpe
from agent.core.durations import format_bar_length
from agent.core.events import DAY_MS, HOUR_MS
from agent.core.instruments import periods_per_year
from agent.core.settings import Category

_NO_OVERLAP: Final = "the runs have no time in common"


class RecordedCurve(NamedTuple):
    """Equity samples of a run: times (UTC ms, ascending) and values, both of shape (samples,).

    `start` is the time at which equity was `initial`, one bar before the first sample.
    """

    start: int
    initial: float
    ts: Ints
    equity: Floats
    interval: int  # of the bars, ms
    category: Category

    @property
    def end(self) -> int:
        """Time of the last sample."""
        return int(self.ts[-1])

    def at(self, times: Ints) -> Floats:
        """Return the equity at `times`, the last sample up to each; `initial` before the first one."""
        row = np.searchsorted(self.ts, times, side="right") - 1
        return np.where(row < 0, self.initial, self.equity[np.maximum(row, 0)])


class PairedReturns(msgspec.Struct, frozen=True):
    """The comparison of the returns of `a` and `b` between `start` and `end` (UTC ms).

    - `periods`: number of returns, of `period` ms each; periods without a sample of either run are left out.
    - `difference`: a minus b with 95 % intervals; None for the reason `absent`.
    - `draws`, `block`: resamples of the stationary bootstrap, and the mean length of their blocks in periods.
    - `correlation`: of the returns; None if one of the curves never moved.
    """

    start: int = 0
    end: int = 0
    period: int = 0
    periods: int = 0
    total_return_a: float | None = None
    total_return_b: float | None = None
    correlation: float | None = None
    difference: Difference | None = None
    draws: int = 0
    block: float = 0.0
    absent: str = ""

    @property
    def method(self) -> str:
        """One sentence on how the intervals are computed; empty without them."""
        if self.difference is None:
            return ""
        return (
            f"95 % intervals of {self.draws:,} resamples of {self.periods:,} paired "
            f"{period_name(self.period)} returns, drawn together by the stationary bootstrap in blocks of "
            f"{self.block:.1f} {'period' if self.block == 1 else 'periods'} on average."
        )


def period_name(period: int) -> str:
    """Return the adjective for returns over periods of `period` ms: `daily`, `hourly`, or such as `5m`."""
    return "hourly" if period == HOUR_MS else formats.frequency(period)


def paired_returns(a: RecordedCurve, b: RecordedCurve, *, seed: int = 0, draws: int = DRAWS) -> PairedReturns:
    """Compare two curves; see `PairedReturns`. The random numbers depend on `seed` only."""
    start, end = max(a.start, b.start), min(a.end, b.end)
    if end <= start:
        return PairedReturns(absent=_NO_OVERLAP)
    found = PairedReturns(start, end, absent="too few samples")
    for period in _periods(a, b):
        ends = _complete_periods(start, end, period)
        if len(ends) < 2:
            found = msgspec.structs.replace(found, period=period, absent=_too_few(0, period))
            continue
        sampled = _sampled(a, ends) | _sampled(b, ends)
        first, second = (simple_returns(one.at(ends[1:]), float(one.at(ends[:1])[0])) for one in (a, b))
        first, second = first[sampled], second[sampled]
        found = PairedReturns(
            int(ends[0]),
            int(ends[-1]),
            period,
            len(first),
            float(np.prod(1 + first) - 1),
            float(np.prod(1 + second) - 1),
            _correlation(first, second),
            absent=_too_few(len(first), period),
        )
        if len(first) < MIN_PERIODS:
            continue
        lead = difference(first, second, _per_year(a, ends, sampled, period), draws=draws, seed=seed)
        why = "" if lead is not None else "neither equity curve moved in a way that has a Sharpe ratio"
        block = block_length(first - second)
        return msgspec.structs.replace(
            found, difference=lead, absent=why, draws=draws if lead else 0, block=block if lead else 0.0
        )
    return found


def _periods(a: RecordedCurve, b: RecordedCurve) -> list[int]:
    """Return the lengths (ms) of periods to try, longest first: no shorter than the bars and the samples."""
    least = max(a.interval, b.interval, _spacing(a), _spacing(b))
    return sorted({max(DAY_MS, least), max(HOUR_MS, least), least}, reverse=True)


def _spacing(curve: RecordedCurve) -> int:
    return int(np.median(np.diff(curve.ts))) if len(curve.ts) > 1 else curve.interval


def _complete_periods(start: int, end: int, period: int) -> Ints:
    """Return the boundaries (UTC ms) of the periods that lie between `start` and `end`."""
    first = -(-start // period)
    return np.arange(first, end // period + 1, dtype=np.int64) * period


def _sampled(curve: RecordedCurve, ends: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for each period whether the curve has a sample in it."""
    rows = np.searchsorted(curve.ts, ends, side="right")
    return np.diff(rows) > 0


def _per_year(
    curve: RecordedCurve, ends: Ints, sampled: np.ndarray[tuple[int], np.dtype[np.bool_]], period: int
) -> float:
    """Return the number of periods in a year: for intraday periods of equities, of those with samples."""
    if curve.category != "equity" or period >= DAY_MS:
        return periods_per_year(curve.category, period)
    return int(sampled.sum()) * YEAR_MS / float(ends[-1] - ends[0])


def _correlation(a: Floats, b: Floats) -> float | None:
    if len(a) < 2 or sharpe(a) is None or sharpe(b) is None:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _too_few(count: int, period: int) -> str:
    name = {DAY_MS: "days", HOUR_MS: "hours"}.get(period) or f"periods of {format_bar_length(period)}"
    return f"the runs have {count:,} {name} in common, fewer than {MIN_PERIODS}"
