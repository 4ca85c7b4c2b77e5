"""How far figures can be believed: bootstrap intervals, and Sharpe ratios corrected for luck and for the number of trials.

All take simple returns per period, shape (n,), evenly spaced: daily ones are best (`agent.analysis.returns`), since intervals
from returns a minute add work and no evidence. Everything random is drawn from `seed`, so the same input gives the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import e, sqrt
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DRAWS: Final = 5_000
"""Resamples of an interval: its ends then move by about a fiftieth of its width with another seed."""

MIN_PERIODS: Final = 20
"""With fewer returns no interval is stated."""

_LEVEL: Final = 0.95
_STEADY: Final = 1e-12  # a deviation this small beside the mean is rounding (see `agent.analysis.metrics`)
_CELLS: Final = 1_000_000  # blocks drawn at once
_NORMAL: Final = NormalDist()
_EULER: Final = float(np.euler_gamma)


class Interval(msgspec.Struct, frozen=True):
    """A figure with the ends of its confidence interval (95 % unless said otherwise)."""

    value: float
    low: float
    high: float

    def excludes(self, figure: float) -> bool:
        """Whether `figure` lies outside."""
        return figure < self.low or figure > self.high


class Difference(msgspec.Struct, frozen=True):
    """One series against another over the same periods; `worse` is the share of resamples in which it was not ahead."""

    sharpe: Interval
    total_return: Interval  # total return minus total return
    worse: float


# -- the stationary bootstrap ------------------------------------------------------------------------------------------


class StationaryBootstrap:
    """`draws` resamples of n periods, in blocks of geometric length with mean `block`, around the end to the beginning.

    Politis and Romano, "The stationary bootstrap", JASA 89 (1994). What is wanted of a resample are sums over its periods,
    and a block's sum is a difference of two running sums: so a resample costs its number of blocks, not its length. Two series
    with the same n, block and seed are resampled alike, which is what pairing needs.
    """

    def __init__(self, n: int, block: float, *, draws: int = DRAWS, seed: int = 0) -> None:
        if n < 1 or block < 1:
            raise ValueError(
                f"a bootstrap needs at least one period and blocks of at least one, not {n} and {block}"
            )
        self.n, self.draws = n, draws
        self._chance = 1 / block  # of a block ending after each of its periods
        self._seed = seed

    def sums(self, *series: ArrayLike) -> tuple[Floats, ...]:
        """For each of `series`, shape (n,), its sum over every resample, shape (draws,)."""
        running = [np.concatenate(((0.0,), np.cumsum(np.asarray(values, np.float64)))) for values in series]
        parts: list[list[Floats]] = [[] for _ in series]
        for starts, lengths in self._blocks():
            rounds, ends = np.divmod(starts + lengths, self.n)
            for sums, part in zip(running, parts, strict=True):
                part.append((sums[ends] - sums[starts] + rounds * sums[-1]).sum(axis=1))
        return tuple(np.concatenate(part) for part in parts)

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """The periods of each resample, shape (n,), one resample at a time."""
        for starts, lengths in self._blocks():
            for first, count in zip(starts, lengths, strict=True):
                begins = np.repeat(first - np.concatenate(((0,), np.cumsum(count)[:-1])), count)
                yield (begins + np.arange(self.n)) % self.n

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Starts and lengths of blocks, (resamples, blocks), some resamples at a time; blocks past the n-th period have length 0."""
        random = np.random.default_rng(self._seed)
        n, chance = self.n, self._chance
        width = int(n * chance + 5 * sqrt(n * chance * (1 - chance))) + 5
        rows = max(1, _CELLS // width)
        for done in range(0, self.draws, rows):
            shape = min(rows, self.draws - done), width
            lengths, starts = random.geometric(chance, shape), random.integers(n, size=shape)
            while (lengths.sum(axis=1) < n).any():  # an unlucky row: all get more
                lengths = np.hstack((lengths, random.geometric(chance, shape)))
                starts = np.hstack((starts, random.integers(n, size=shape)))
            ends = np.minimum(lengths.cumsum(axis=1), n)
            yield starts, np.diff(ends, axis=1, prepend=0)


def block_length(returns: ArrayLike) -> float:
    """Mean block of the stationary bootstrap that suits the series' own dependence, in periods, at least 1.

    Politis and White, "Automatic block-length selection for the dependent bootstrap", Econometric Reviews 23 (2004), with the
    correction by Patton, Politis and White, 28 (2009): 2^(1/3) (G² / D)^(1/3) n^(1/3), with flat-top lag windows.
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
    # The first lag from which on `run` correlations in a row are none
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


# -- intervals ---------------------------------------------------------------------------------------------------------


def sharpe_interval(
    returns: ArrayLike, periods_per_year: float, *, draws: int = DRAWS, seed: int = 0, level: float = _LEVEL
) -> Interval | None:
    """The annualised Sharpe ratio and its percentile interval; None for fewer than `MIN_PERIODS` returns, or where it is undefined.

    A resample in which nothing moved has the ratio 0: it neither won nor lost.
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
    """The total return over all periods, compounded, and its percentile interval; None for fewer than `MIN_PERIODS` returns."""
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
    """`returns` minus `other`, resampled together, so that what moved both cancels out; None as for `sharpe_interval`.

    The block suits the difference of the two. A series that never moved has the ratio 0. After Ledoit and Wolf, "Robust
    performance hypothesis testing with the Sharpe ratio", Journal of Empirical Finance 15 (2008), with percentile intervals.
    """
    mine, theirs = np.asarray(returns, np.float64), np.asarray(other, np.float64)
    if mine.shape != theirs.shape:
        raise ValueError(f"paired series have one length, not {len(mine)} and {len(theirs)}")
    if len(mine) < MIN_PERIODS or (sharpe(mine) is None and sharpe(theirs) is None):
        return None
    bootstrap = StationaryBootstrap(len(mine), block_length(mine - theirs), draws=draws, seed=seed)
    yearly = sqrt(periods_per_year)
    ratios = _sharpes(bootstrap, mine) - _sharpes(bootstrap, theirs)
    growth, yardstick = bootstrap.sums(_log(mine), _log(theirs))
    ahead = np.expm1(growth) - np.expm1(yardstick)
    return Difference(
        sharpe=_interval(((sharpe(mine) or 0.0) - (sharpe(theirs) or 0.0)) * yearly, ratios * yearly, level),
        total_return=_interval(
            float(np.expm1(_log(mine).sum()) - np.expm1(_log(theirs).sum())), ahead, level
        ),
        worse=float((ahead <= 0).mean()),
    )


def sharpe(returns: ArrayLike) -> float | None:
    """Mean over sample standard deviation of the returns, per period, not annualised; None where they never vary."""
    values = np.asarray(returns, np.float64)
    if len(values) < 2:
        return None
    deviation, mean = float(values.std(ddof=1)), float(values.mean())
    return mean / deviation if deviation > _STEADY * abs(mean) else None


def _sharpes(bootstrap: StationaryBootstrap, values: Floats) -> Floats:
    """The ratio of each resample, per period. Sums of the centred series, lest squares cancel."""
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
    """Log growth, which adds up; an account that is lost stays lost."""
    growth: Floats = np.log1p(np.maximum(returns, -1 + 1e-12))
    return growth


# -- the Sharpe ratio, corrected ---------------------------------------------------------------------------------------


def probabilistic_sharpe(returns: ArrayLike, threshold: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio is above `threshold` (per period, as `sharpe`); None where it is undefined.

    Phi((SR - threshold) sqrt(n - 1) / sqrt(1 - skewness SR + (kurtosis - 1) / 4 SR²)): few, skewed or fat-tailed returns prove
    less. Bailey and López de Prado, "The Sharpe ratio efficient frontier", Journal of Risk 15 (2012).
    """
    values = np.asarray(returns, np.float64)
    ratio = sharpe(values)
    if ratio is None or len(values) < MIN_PERIODS:
        return None
    standard = (values - values.mean()) / values.std()
    return sharpe_confidence(
        ratio, len(values), float((standard**3).mean()), float((standard**4).mean()), threshold
    )


def sharpe_confidence(
    ratio: float, n: int, skewness: float, kurtosis: float, threshold: float = 0.0
) -> float:
    """`probabilistic_sharpe` from the moments of n returns; `kurtosis` is 3 for normal ones."""
    error = sqrt(max(1 - skewness * ratio + (kurtosis - 1) / 4 * ratio * ratio, 1e-12) / (n - 1))
    return _NORMAL.cdf((ratio - threshold) / error)


def expected_best_sharpe(trials: int, variance: float) -> float:
    """The Sharpe ratio (per period) that the best of `trials` without any skill shows by luck, were they independent.

    `variance` is that of the trials' ratios. sqrt(V) ((1 - γ) Z(1 - 1/N) + γ Z(1 - 1/(N e))) with Euler's γ and the normal quantile Z:
    Bailey and López de Prado, "The deflated Sharpe ratio", Journal of Portfolio Management 40 (2014).
    """
    if trials < 2:
        return 0.0
    return sqrt(variance) * (
        (1 - _EULER) * _NORMAL.inv_cdf(1 - 1 / trials) + _EULER * _NORMAL.inv_cdf(1 - 1 / (trials * e))
    )


def deflated_sharpe(
    returns: ArrayLike, trials: int, *, trial_sharpes: Sequence[float] | None = None
) -> float | None:
    """Probability that the true Sharpe ratio is above what the best of `trials` shows by luck; None where it is undefined.

    `trial_sharpes` are the ratios per period of what was tried, for their variance. Where they aren't known, the variance of the
    ratio of n returns without skill stands in, 1 / (n - 1). With one trial this is the probabilistic Sharpe ratio above 0.
    """
    values = np.asarray(returns, np.float64)
    if len(values) < MIN_PERIODS:
        return None
    known = trial_sharpes is not None and len(trial_sharpes) > 1
    variance = float(np.var(np.asarray(trial_sharpes), ddof=1)) if known else 1 / (len(values) - 1)
    return probabilistic_sharpe(values, expected_best_sharpe(trials, variance))
