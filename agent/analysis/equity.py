"""The equity curve of a run, reduced to the statistics that the metrics need, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Floats, Ints, month_of, months_of, simple_returns
from agent.analysis.thinning import ThinnedCurve
from agent.core.durations import later
from agent.core.events import DAY_MS, HOUR_MS

_BLOCK: Final = 4_096
_REST_MS: Final = 3 * HOUR_MS  # a longer gap between samples begins a new session; a lunch break is shorter


class Drawdown(msgspec.Struct, frozen=True):
    """A fall from a peak. `recovery` is the first sample back at the peak, None if the run ended before."""

    depth: float  # fraction of the peak, <= 0
    peak: int  # UTC ms
    trough: int
    recovery: int | None


class EquitySummary(msgspec.Struct, frozen=True):
    """Statistics of an equity curve. Returns are simple returns per period."""

    initial: float
    final: float
    start: int  # UTC ms; one period before the first sample, when equity was `initial`
    end: int
    interval: int  # ms
    periods: int
    sessions: int  # runs of samples without a gap; one that is longer than a day counts as so many days
    mean: float  # of the returns
    deviation: float  # sample standard deviation of the returns (ddof 1)
    downside: float  # root of the mean of min(return, 0)² over all periods
    average: float  # mean equity
    exposed: int  # periods that ended with a position
    drawdown: Drawdown  # the deepest one
    longest_drawdown: int  # ms from a peak to its recovery or the end
    bankrupt: int | None  # UTC ms of the first sample at or below zero
    months: dict[str, float]  # "2024-03" -> return, UTC calendar months


def without_flows(
    ts: Ints, equity: Floats, flows: Iterable[tuple[int, float]], initial: float
) -> tuple[float, Floats]:
    """Remove deposits and withdrawals from an equity curve, so that its returns are time-weighted.

    `equity` has shape (n,) and belongs to `ts` (UTC ms, ascending); a flow is its time in UTC ms and its
    amount. The return of the period with the flow leaves it out, and all earlier equity is scaled to the
    capital after it, so that the last value is the account's. A flow up to the first sample is part of the
    initial capital.

    Returns the adjusted initial capital and equity.
    """
    scale = np.ones_like(equity)
    for at, amount in flows:
        row = int(np.searchsorted(ts, at))
        if row == 0:
            initial += amount
        elif row < len(ts) and equity[row] > 0 and equity[row] > amount:
            scale[:row] *= equity[row] / (equity[row] - amount)
    return initial * float(scale[0]) if len(scale) else initial, equity * scale


class EquityCurve:
    """Accumulates the equity at each bar: `add` one sample or `extend` by many, then read `summary`.

    `initial` is the capital one `interval` (ms) before the first sample. A second sample at the same time
    replaces the first, so that a caller may add one after the bar of each symbol. A return on equity at or
    below zero counts as 0.

    Moments are merged block by block, which is as stable as two passes: Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self, initial: float, interval: int) -> None:
        self._initial = initial
        self._interval = interval
        self._equity: dict[int, float] = {}  # samples not yet folded, by time
        self._exposed: dict[int, bool] = {}
        self._curve = ThinnedCurve()
        self._start: int | None = None
        self._end = 0
        self._final = initial
        self._periods = 0
        self._sessions = 0
        self._session_start = 0
        self._mean = 0.0
        self._squares = 0.0  # of deviations from the mean
        self._downside_squares = 0.0
        self._sum = 0.0
        self._exposed_periods = 0
        self._peak = initial
        self._peak_ts = 0
        self._underwater = False
        self._deepest = Drawdown(0.0, 0, 0, None)
        self._longest = 0
        self._bankrupt: int | None = None
        self._month_ends: dict[str, float] = {}

    def add(self, ts: int, equity: float, exposed: bool) -> None:
        """Add the equity at `ts` (UTC ms, not before the last sample) and whether a position was open."""
        samples = self._equity
        samples[ts] = equity
        self._exposed[ts] = exposed
        if len(samples) > _BLOCK:
            self._flush(keep_last=True)

    def extend(self, ts: Ints, equity: Floats, exposed: NDArray[np.bool_] | bool = True) -> None:
        """Add samples with strictly ascending times; all arrays have shape (n,)."""
        self._flush()
        self._fold(ts, equity, int(np.count_nonzero(np.broadcast_to(exposed, ts.shape))))

    def points(self) -> tuple[list[int], list[float]]:
        """Return about 4,000 points for a chart, from the initial equity on: times (UTC ms) and equity."""
        self._flush()
        ts, equity = self._curve.points()
        return ([], []) if self._start is None else ([self._start, *ts], [self._initial, *equity])

    def summary(self) -> EquitySummary:
        """Return the statistics of all samples so far."""
        self._flush()
        months, previous = {}, self._initial
        for month, equity in self._month_ends.items():
            months[month] = equity / previous - 1 if previous > 0 else 0.0
            previous = equity
        return EquitySummary(
            initial=self._initial,
            final=self._final,
            start=self._start or 0,
            end=self._end,
            interval=self._interval,
            periods=self._periods,
            sessions=self._sessions + _days_in(self._end - self._session_start) if self._periods else 0,
            mean=self._mean,
            deviation=(self._squares / (self._periods - 1)) ** 0.5 if self._periods > 1 else 0.0,
            downside=(self._downside_squares / self._periods) ** 0.5 if self._periods else 0.0,
            average=self._sum / self._periods if self._periods else self._initial,
            exposed=self._exposed_periods,
            drawdown=self._deepest,
            longest_drawdown=self._longest,
            bankrupt=self._bankrupt,
            months=months,
        )

    def _flush(self, *, keep_last: bool = False) -> None:
        """Fold the buffer. With `keep_last` the newest sample stays, because `add` may still replace it."""
        if not self._equity:
            return
        last = (self._equity.popitem(), self._exposed.popitem()) if keep_last else None
        ts = np.fromiter(self._equity.keys(), np.int64, len(self._equity))
        equity = np.fromiter(self._equity.values(), np.float64, len(self._equity))
        exposed = sum(self._exposed.values())
        self._equity.clear()
        self._exposed.clear()
        if last is not None:
            self._equity, self._exposed = dict(last[:1]), dict(last[1:])
        self._fold(ts, equity, exposed)

    def _fold(self, ts: Ints, equity: Floats, exposed: int) -> None:
        if not len(ts):
            return
        if (len(ts) > 1 and (np.diff(ts) <= 0).any()) or (self._start is not None and ts[0] <= self._end):
            raise ValueError(f"equity samples are not in time order around {int(ts[0])}")
        if not np.isfinite(equity).all():
            raise ValueError(f"equity is not a finite number at {int(ts[~np.isfinite(equity)][0])}")
        if self._start is None:
            self._start = self._peak_ts = self._session_start = self._end = later(
                int(ts[0]), self._interval, -1
            )
            self._deepest = Drawdown(0.0, self._start, self._start, None)
        self._fold_sessions(ts)
        self._fold_returns(equity)
        self._fold_drawdown(ts, equity)
        self._fold_months(ts, equity)
        self._curve.extend(ts, equity)
        if self._bankrupt is None and (equity <= 0).any():
            self._bankrupt = int(ts[equity <= 0][0])
        self._sum += float(equity.sum())
        self._exposed_periods += exposed
        self._end, self._final = int(ts[-1]), float(equity[-1])

    def _fold_sessions(self, ts: Ints) -> None:
        before = np.concatenate(((self._end,), ts[:-1]))
        for row in np.flatnonzero(ts - before > max(_REST_MS, self._interval * 3 // 2)):
            self._sessions += _days_in(int(before[row]) - self._session_start)
            self._session_start = int(ts[row]) - self._interval

    def _fold_returns(self, equity: Floats) -> None:
        returns = simple_returns(equity, self._final)
        count, total = len(returns), self._periods + len(returns)
        mean = float(returns.mean())
        shift = mean - self._mean
        self._squares += (
            float(np.square(returns - mean).sum()) + shift * shift * self._periods * count / total
        )
        self._mean += shift * count / total
        self._downside_squares += float(np.square(np.minimum(returns, 0.0)).sum())
        self._periods = total

    def _fold_drawdown(self, ts: Ints, equity: Floats) -> None:
        peaks = np.maximum.accumulate(np.concatenate(((self._peak,), equity)))[1:]
        at_peak = equity >= peaks
        # The peak before each sample may lie in an earlier block.
        last_peak = np.maximum.accumulate(np.where(at_peak, np.arange(len(ts)), -1))
        peak_ts = np.where(last_peak < 0, self._peak_ts, ts[last_peak])
        fallen_from = np.concatenate(((self._peak_ts,), peak_ts[:-1]))
        underwater = ~at_peak
        was_underwater = np.concatenate(((self._underwater,), underwater[:-1]))
        self._longest = max(
            self._longest, int(np.where(underwater | was_underwater, ts - fallen_from, 0).max())
        )
        self._recover(ts[at_peak])
        depth = equity / peaks - 1
        trough = int(depth.argmin())
        if depth[trough] < self._deepest.depth:
            self._deepest = Drawdown(float(depth[trough]), int(peak_ts[trough]), int(ts[trough]), None)
            self._recover(ts[at_peak])
        self._peak, self._peak_ts, self._underwater = float(peaks[-1]), int(peak_ts[-1]), bool(underwater[-1])

    def _recover(self, peak_times: Ints) -> None:
        """End the deepest drawdown at the first of `peak_times` after its trough."""
        if self._deepest.recovery is None and self._deepest.depth < 0:
            after = peak_times[peak_times > self._deepest.trough]
            if len(after):
                self._deepest = msgspec.structs.replace(self._deepest, recovery=int(after[0]))

    def _fold_months(self, ts: Ints, equity: Floats) -> None:
        first, last = month_of(int(ts[0])), month_of(int(ts[-1]))
        if first != last:
            months = months_of(ts)
            for end in np.flatnonzero(months[1:] != months[:-1]):
                self._month_ends[str(months[end])] = float(equity[end])
        self._month_ends[last] = float(equity[-1])


def _days_in(duration: int) -> int:
    """Convert a duration in ms to days, at least one."""
    return max(1, round(duration / DAY_MS))
