"""Statistical significance: bootstrap intervals, and Sharpe ratios corrected for luck and number of trials.

All functions take simple returns per period, evenly spaced, shape (n,). Use daily ones
(`daily.daily_returns`): returns per minute cost more time and add no evidence. The random numbers depend on
`seed` only, so equal input gives equal intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import e, sqrt
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from agent.analysis.daily import Floats, Ints

DRAWS: Final = 5_000
"""Resamples per interval. With another seed the bounds move by about a fiftieth of the interval's width."""

MIN_PERIODS: Final = 20
"""With fewer returns no interval is computed."""

_LEVEL: Final = 0.95
_STEADY: Final = 1e-12  # a deviation this small relative to the mean is rounding
_CELLS: Final = 1_000_000  # blocks drawn at a time, to bound memory
_NORMAL: Final = NormalDist()
_EULER: Final = float(np.euler_gamma)


class Interval(msgspec.Struct, frozen=True):
    """A figure with the bounds of its confidence interval (95 % by default)."""

    value: float
    low: float
    high: float

    def excludes(self, figure: float) -> bool:
        """Return True if `figure` lies outside of the interval."""
        return figure < self.low or figure > self.high


class Difference(msgspec.Struct, frozen=True):
    """One series minus another over the same periods; `worse` is the share of resamples with no lead."""

    sharpe: Interval
    total_return: Interval  # total return minus total return
    worse: float


# -- the stationary bootstrap ------------------------------------------------------------------------


class StationaryBootstrap:
    """`draws` resamples of n periods in blocks of geometric length with mean `block`, wrapping around.

    Only sums over resamples are needed, and the sum of a block is a difference of two running sums. So the
    cost of a resample depends on its number of blocks, not on n. Two series with the same n, block and seed
    get the same resamples, which paired comparisons need. Politis and Romano, "The stationary bootstrap",
    JASA 89 (1994).
    """

    def __init__(self, n: int, block: float, *, draws: int = DRAWS, seed: int = 0) -> None:
        if n < 1 or block < 1:
            raise ValueError(f"n and block must be at least 1, not {n} and {block}")
        self.n, self.draws = n, draws
        self._chance = 1 / block  # that a block ends after any of its periods
        self._seed = seed

    def sums(self, *series: ArrayLike) -> tuple[Floats, ...]:
        """Sum each of `series`, shape (n,), over every resample: one array of shape (draws,) per series."""
        running = [np.concatenate(((0.0,), np.cumsum(np.asarray(values, np.float64)))) for values in series]
        parts: list[list[Floats]] = [[] for _ in series]
        for starts, lengths in self._blocks():
            rounds, ends = np.divmod(starts + lengths, self.n)
            for sums, part in zip(running, parts, strict=True):
                part.append((sums[ends] - sums[starts] + rounds * sums[-1]).sum(axis=1))
        return tuple(np.concatenate(part) for part in parts)

    def indices(self) -> Iterator[Ints]:
        """Yield the periods of each resample, shape (n,)."""
        for starts, lengths in self._blocks():
            for first, count in zip(starts, lengths, strict=True):
                begins = np.repeat(first - np.concatenate(((0,), np.cumsum(count)[:-1])), count)
                yield (begins + np.arange(self.n)) % self.n

    def _blocks(self) -> Iterator[tuple[Ints, Ints]]:
        """Yield starts and lengths of blocks, both (resamples, blocks), for some resamples at a time.

        Blocks after the n-th period have length 0.
        """
        random = np.random.default_rng(self._seed)
        n, chance = self.n, self._chance
        width = int(n * chance + 5 * sqrt(n * chance * (1 - chance))) + 5
        rows = max(1, _CELLS // width)
        for done in range(0, self.draws, rows):
            shape = min(rows, self.draws - done), width
            lengths, starts = random.geometric(chance, shape), random.integers(n, size=shape)
            while (lengths.sum(axis=1) < n).any():  # rarely, a row is too short: extend all rows
                lengths = np.hstack((lengths, random.geometric(chance, shape)))
                starts = np.hstack((starts, random.integers(n, size=shape)))
            ends = np.minimum(lengths.cumsum(axis=1), n)
            yield starts, np.diff(ends, axis=1, prepend=0)


def block_length(returns: ArrayLike) -> float:
    """Return the optimal mean block length (in periods, at least 1) of the stationary bootstrap of a series.

    Politis and White, "Automatic block-length selection for the dependent bootstrap", Econometric Reviews 23
    (2004), with the correction by Patton, Politis and White, 28 (2009): 2^(1/3) (G² / D)^(1/3) n^(1/3), with
    flat-top lag windows.
    """
    values = np.asarray(returns, np.float64)
    n = len(values)
    centred = values - values.mean()
    if n < 8 or float(centred @ centred) <= 0:
        return 1.0
    run = max(5, int(np.log10(n)))
    most = min(int(np.ceil(sqrt(n))) + run, n - 2)
    lags = range(most + 1)
    covariances = np.array([centred[lag:] @ centred[: n - lag] for lag in lags]) / n
    scales = np.array(
        [
            sqrt(
                (centred[lag + 1 :] @ centred[lag + 1 :]) * (centred[: n - lag - 1] @ centred[: n - lag - 1])
            )
            for lag in lags
        ]
    )
    correlations = np.abs(covariances) * n / np.where(scales > 0, scales, np.inf)
    small = correlations < 2 * sqrt(np.log10(n) / n)
    # The first lag that is followed by `run` insignificant correlations
    quiet = next((lag for lag in range(most - run + 1) if small[lag : lag + run].all()), None)
    window = most if quiet is None else min(2 * max(quiet, 1), most)
    lag = np.arange(1, window + 1)
    weights = np.clip(2 * (1 - lag / window), 0, 1)
    spread = float(2 * (weights * lag * covariances[1 : window + 1]).sum())
    long_run = float(covariances[0] + 2 * (weights * covariances[1 : window + 1]).sum())
    longest = np.ceil(min(3 * sqrt(n), n / 3))
    if long_run == 0:
        return float(longest)
    return float(np.clip((spread / long_run) ** 2 * n, 1, longest**3) ** (1 / 3))


# -- intervals ---------------------------------------------------------------------------------------


def sharpe_interval(
    returns: ArrayLike, periods_per_year: float, *, draws: int = DRAWS, seed: int = 0, level: float = _LEVEL
) -> Interval | None:
    """Return the annualised Sharpe ratio and its percentile interval.

    None for fewer than `MIN_PERIODS` returns, or if the ratio is undefined. A resample of equal returns has
    the ratio 0.
    """
    values = np.asarray(returns, np.float64)
    own = sharpe(values)
    if own is None or len(values) < MIN_PERIODS:
        return None
    yearly = sqrt(periods_per_year)
    ratios = _sharpes(StationaryBootstrap(len(values), block_length(values), draws=draws, seed=seed), values)
    return _interval(own * yearly, ratios * yearly, level)


def return_interval(
    returns: ArrayLike, *, draws: int = DRAWS, seed: int = 0, level: float = _LEVEL
) -> Interval | None:
    """Return the total return, compounded, and its percentile interval; None for fewer than `MIN_PERIODS`."""
    values = np.asarray(returns, np.float64)
    if len(values) < MIN_PERIODS:
        return None
    (growth,) = StationaryBootstrap(len(values), block_length(values), draws=draws, seed=seed).sums(
        _log(values)
    )
    return _interval(float(np.expm1(_log(values).sum())), np.expm1(growth), level)


def difference(
    returns: ArrayLike,
    other: ArrayLike,
    periods_per_year: float,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = _LEVEL,
) -> Difference | None:
    """Return the interval of `returns` minus `other`, resampled together so that common moves cancel out.

    None for fewer than `MIN_PERIODS` returns, or if both ratios are undefined; one that is undefined counts
    as 0. The block length is that of the difference of the two. Raises ValueError if the lengths differ.

    After Ledoit and Wolf, "Robust performance hypothesis testing with the Sharpe ratio", Journal of Empirical
    Finance 15 (2008), with percentile intervals.
    """
    first, second = np.asarray(returns, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired series must have the same length, not {len(first)} and {len(second)}")
    if len(first) < MIN_PERIODS or (sharpe(first) is None and sharpe(second) is None):
        return None
    bootstrap = StationaryBootstrap(len(first), block_length(first - second), draws=draws, seed=seed)
    yearly = sqrt(periods_per_year)
    ratios = _sharpes(bootstrap, first) - _sharpes(bootstrap, second)
    growth, other_growth = bootstrap.sums(_log(first), _log(second))
    ahead = np.expm1(growth) - np.expm1(other_growth)
    return Difference(
        sharpe=_interval(((sharpe(first) or 0.0) - (sharpe(second) or 0.0)) * yearly, ratios * yearly, level),
        total_return=_interval(
            float(np.expm1(_log(first).sum()) - np.expm1(_log(second).sum())), ahead, level
        ),
        worse=float((ahead <= 0).mean()),
    )


def sharpe(returns: ArrayLike) -> float | None:
    """Return mean over sample deviation of the returns, not annualised; None if all returns are equal."""
    values = np.asarray(returns, np.float64)
    if len(values) < 2:
        return None
    deviation, mean = float(values.std(ddof=1)), float(values.mean())
    return mean / deviation if deviation > _STEADY * abs(mean) else None


def _sharpes(bootstrap: StationaryBootstrap, values: Floats) -> Floats:
    """Return the ratio per period of each resample. The series is centred first, to avoid cancellation."""
    n, mean = len(values), values.mean()
    centred = values - mean
    sums, squares = bootstrap.sums(centred, centred * centred)
    deviations = np.sqrt(np.maximum(squares - sums * sums / n, 0.0) / (n - 1))
    means = sums / n + mean
    moved = deviations > 1e-9 * max(float(values.std()), np.abs(mean))
    ratios: Floats = np.divide(means, deviations, out=np.zeros(len(sums)), where=moved)
    return ratios


def _interval(value: float, drawn: Floats, level: float) -> Interval:
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high))


def _log(returns: Floats) -> Floats:
    """Convert simple to log returns, which add up; a return of -100 % becomes a huge but finite loss."""
    growth: Floats = np.log1p(np.maximum(returns, -1 + 1e-12))
    return growth


# -- the Sharpe ratio, corrected ---------------------------------------------------------------------


def probabilistic_sharpe(returns: ArrayLike, threshold: float = 0.0) -> float | None:
    """Return the probability that the true Sharpe ratio (per period) is above `threshold`; None if undefined.

    Phi((SR - threshold) sqrt(n - 1) / sqrt(1 - skewness SR + (kurtosis - 1) / 4 SR²)): few, skewed or
    fat-tailed returns give a probability closer to 0.5. Bailey and López de Prado, "The Sharpe ratio
    efficient frontier", Journal of Risk 15 (2012).
    """
    return moments_of(returns).confidence(threshold)


class Moments(msgspec.Struct, frozen=True):
    """Moments of n returns; None if all returns are equal. A normal distribution has `kurtosis` 3."""

    n: int
    sharpe: float | None = None  # per period
    skewness: float | None = None
    kurtosis: float | None = None

    def confidence(self, threshold: float = 0.0) -> float | None:
        """Return `probabilistic_sharpe` of the returns with these moments."""
        if self.n < MIN_PERIODS or self.sharpe is None or self.skewness is None or self.kurtosis is None:
            return None
        return sharpe_confidence(self.sharpe, self.n, self.skewness, self.kurtosis, threshold)


def moments_of(returns: ArrayLike) -> Moments:
    """Return the moments that the Sharpe ratio's uncertainty depends on."""
    values = np.asarray(returns, np.float64)
    ratio = sharpe(values)
    if ratio is None:
        return Moments(len(values))
    standard = (values - values.mean()) / values.std()
    return Moments(len(values), ratio, float((standard**3).mean()), float((standard**4).mean()))


def sharpe_confidence(
    ratio: float, n: int, skewness: float, kurtosis: float, threshold: float = 0.0
) -> float:
    """Return `probabilistic_sharpe` from the moments of n returns; a normal distribution has `kurtosis` 3."""
    error = sqrt(max(1 - skewness * ratio + (kurtosis - 1) / 4 * ratio * ratio, 1e-12) / (n - 1))
    return _NORMAL.cdf((ratio - threshold) / error)


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Return the expected Sharpe ratio (per period) of the best of `trials` independent trials without skill.

    `variance` is the variance V of the trials' ratios: sqrt(V) ((1 - γ) Z(1 - 1/N) + γ Z(1 - 1/(N e))) with
    Euler's γ and the normal quantile Z. Bailey and López de Prado, "The deflated Sharpe ratio", Journal of
    Portfolio Management 40 (2014).
    """
    if trials < 2:
        return 0.0
    quantiles = _NORMAL.inv_cdf(1 - 1 / trials), _NORMAL.inv_cdf(1 - 1 / (trials * e))
    return sqrt(variance) * ((1 - _EULER) * quantiles[0] + _EULER * quantiles[1])


def deflated_sharpe(
    returns: ArrayLike, trials: int, *, trial_sharpes: Sequence[float] | None = None
) -> float | None:
    """Return the probability that the true Sharpe ratio is above `expected_best_sharpe`; None if undefined.

    `trial_sharpes` are the ratios per period of the trials, for their variance. If they are unknown, the
    variance is taken to be 1 / (n - 1), that of the ratio of n returns without skill. With one trial this is
    the probabilistic Sharpe ratio above 0.
    """
    values = np.asarray(returns, np.float64)
    if len(values) < MIN_PERIODS:
        return None
    known = trial_sharpes is not None and len(trial_sharpes) > 1
    variance = float(np.var(np.asarray(trial_sharpes), ddof=1)) if known else 1 / (len(values) - 1)
    return probabilistic_sharpe(values, expected_best_sharpe(trials, variance))
