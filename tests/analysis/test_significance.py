"""Intervals and corrected Sharpe ratios: coverage, and comparison with arch, quantstats and papers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import StationaryBootstrap as ArchBootstrap
from arch.bootstrap import optimal_block_length
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.significance import (
    Floats,
    StationaryBootstrap,
    block_length,
    deflated_sharpe,
    difference,
    expected_best_sharpe,
    probabilistic_sharpe,
    return_interval,
    sharpe,
    sharpe_confidence,
    sharpe_interval,
)
from tests.support.lazy import LazyModule

qs = LazyModule("quantstats.stats")


def series(n: int, *, seed: int, memory: float = 0.0, mean: float = 0.0) -> Floats:
    """Generate returns with 1 % deviation and autocorrelation `memory`."""
    shocks = np.random.default_rng(seed).normal(0, 0.01, n)
    values = np.zeros(n)
    for i in range(n):
        values[i] = memory * values[i - 1] + shocks[i]
    return values + mean


@pytest.mark.parametrize("n", [60, 250, 1_000])
@pytest.mark.parametrize("memory", [-0.4, 0.0, 0.3, 0.8])
def test_the_block_length_agrees_with_arch(n: int, memory: float) -> None:
    values = series(n, seed=n, memory=memory)
    expected = max(1.0, float(optimal_block_length(values)["stationary"].iloc[0]))
    assert block_length(values) == pytest.approx(expected, rel=1e-9)


def test_the_interval_agrees_with_arch() -> None:
    values = series(500, seed=3, memory=0.3, mean=0.0005)
    ours = sharpe_interval(values, 365, draws=20_000)
    assert ours is not None
    reference = ArchBootstrap(block_length(values), values, seed=1)
    low, high = reference.conf_int(lambda x: x.mean() / x.std(ddof=1) * 365**0.5, 4_000, method="percentile")[
        :, 0
    ]
    width = high - low
    assert ours.low == pytest.approx(low, abs=0.05 * width)
    assert ours.high == pytest.approx(high, abs=0.05 * width)
    assert ours.value == pytest.approx(qs.sharpe(pd.Series(values), periods=365))


@given(n=st.integers(1, 60), block=st.floats(1, 90), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_sums_equal_those_of_the_resampled_periods(n: int, block: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    bootstrap = StationaryBootstrap(n, block, draws=7, seed=seed)
    (sums,) = bootstrap.sums(values)
    resamples = list(bootstrap.indices())
    assert all(len(rows) == n for rows in resamples)
    np.testing.assert_allclose(sums, [values[rows].sum() for rows in resamples], atol=1e-9)


def test_blocks_have_the_given_mean_length_and_all_periods_are_equally_likely() -> None:
    resamples = list(StationaryBootstrap(200, 8.0, draws=2_000).indices())
    breaks = sum(int((np.diff(rows) % 200 != 1).sum()) for rows in resamples)
    assert 199 * 2_000 / breaks == pytest.approx(8.0, rel=0.03)
    counts = np.bincount(np.concatenate(resamples), minlength=200)
    assert counts.min() > 0.9 * 2_000
    assert counts.max() < 1.1 * 2_000


@pytest.mark.parametrize("memory", [0.0, 0.4])
def test_the_interval_has_its_coverage(memory: float) -> None:
    true = 0.001 / (0.01 / (1 - memory**2) ** 0.5)
    held = 0
    for seed in range(150):
        interval = sharpe_interval(series(400, seed=seed, memory=memory, mean=0.001), 1, draws=400)
        assert interval is not None
        held += not interval.excludes(true)
    assert 0.86 <= held / 150 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = series(300, seed=1)
    assert return_interval(values) == return_interval(values)
    assert return_interval(values) != return_interval(values, seed=1)


def test_the_total_return_is_compounded() -> None:
    interval = return_interval([0.10, -0.05] * 20)
    assert interval is not None
    assert interval.value == pytest.approx((1.1 * 0.95) ** 20 - 1)
    assert interval.low < interval.value < interval.high


def test_too_few_or_equal_returns_have_no_interval() -> None:
    assert sharpe_interval([0.01, -0.01] * 5, 365) is None
    assert return_interval([0.01] * 5) is None
    assert sharpe_interval([0.0] * 100, 365) is None
    assert sharpe_interval([0.001] * 100, 365) is None  # the deviation is only rounding
    assert probabilistic_sharpe([0.0] * 100) is None


def test_a_lost_account_stays_lost() -> None:
    interval = return_interval([0.01] * 30 + [-1.0])
    assert interval is not None
    assert interval.value == pytest.approx(-1.0)
    assert interval.low == pytest.approx(-1.0)


def test_pairing_removes_the_common_moves_of_the_market() -> None:
    market = series(400, seed=5, mean=0.001)
    better = difference(market + 0.0005 + series(400, seed=6) * 0.05, market, 365)
    assert better is not None
    assert better.total_return.low > 0
    assert better.sharpe.low > 0
    assert better.worse == 0.0
    alone = return_interval(market)
    assert alone is not None
    assert better.total_return.value < alone.high - alone.low  # much less than the variation of either series


def test_the_difference_of_a_series_and_itself_is_zero() -> None:
    market = series(100, seed=5)
    same = difference(market, market, 365)
    assert same is not None
    assert (same.sharpe.low, same.sharpe.high, same.total_return.value) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same length"):
        difference(market, market[1:], 365)


def test_the_probabilistic_ratio_agrees_with_quantstats() -> None:
    values = series(2_000, seed=9, mean=0.0004)
    reference = float(qs.probabilistic_sharpe_ratio(pd.Series(values), periods=1))
    assert probabilistic_sharpe(values) == pytest.approx(reference, abs=1e-4)


def test_the_deflated_ratio_agrees_with_the_paper() -> None:
    """The example of Bailey and López de Prado (2014): 100 trials, 1,250 days, annual Sharpe ratio 2.5."""
    threshold = expected_best_sharpe(100, 0.5 / 250)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    assert sharpe_confidence(2.5 / 250**0.5, 1_250, -3.0, 10.0, threshold) == pytest.approx(0.9004, abs=5e-5)


def test_more_trials_deflate_the_ratio_of_the_best() -> None:
    noise = [series(500, seed=seed) for seed in range(200)]
    best = max(noise, key=lambda values: sharpe(values) or 0.0)
    ratios = [sharpe(values) or 0.0 for values in noise]
    alone, deflated = probabilistic_sharpe(best), deflated_sharpe(best, 200, trial_sharpes=ratios)
    assert alone is not None
    assert deflated is not None
    assert alone > 0.97  # looks like skill, but is the best of 200 random series
    assert deflated < 0.9
    assert deflated_sharpe(best, 1) == alone
    # The default variance is close to the real one
    assert deflated_sharpe(best, 200) == pytest.approx(deflated, abs=0.1)
