"""Intervals and corrected Sharpe ratios: against arch, quantstats and the papers' own figures, and by what they promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import quantstats.stats as qs
from arch.bootstrap import StationaryBootstrap as ArchBootstrap
from arch.bootstrap import optimal_block_length
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.returns import periodic_returns
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
from agent.core.events import DAY_MS, HOUR_MS


def series(n: int, *, seed: int, memory: float = 0.0, mean: float = 0.0) -> Floats:
    """Returns of 1 % deviation whose neighbours correlate with `memory`."""
    shocks = np.random.default_rng(seed).normal(0, 0.01, n)
    values = np.zeros(n)
    for i in range(n):
        values[i] = memory * values[i - 1] + shocks[i]
    return values + mean


@pytest.mark.parametrize("n", [60, 250, 1_000])
@pytest.mark.parametrize("memory", [-0.4, 0.0, 0.3, 0.8])
def test_the_block_length_is_that_of_arch(n: int, memory: float) -> None:
    values = series(n, seed=n, memory=memory)
    expected = max(1.0, float(optimal_block_length(values)["stationary"].iloc[0]))
    assert block_length(values) == pytest.approx(expected, rel=1e-9)


def test_the_interval_is_that_of_arch() -> None:
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
def test_sums_are_those_of_the_resampled_periods(n: int, block: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    bootstrap = StationaryBootstrap(n, block, draws=7, seed=seed)
    (sums,) = bootstrap.sums(values)
    resamples = list(bootstrap.indices())
    assert all(len(rows) == n for rows in resamples)
    np.testing.assert_allclose(sums, [values[rows].sum() for rows in resamples], atol=1e-9)


def test_blocks_have_the_mean_length_that_was_asked_for_and_every_period_is_as_likely() -> None:
    resamples = list(StationaryBootstrap(200, 8.0, draws=2_000).indices())
    breaks = sum(int((np.diff(rows) % 200 != 1).sum()) for rows in resamples)
    assert 199 * 2_000 / breaks == pytest.approx(8.0, rel=0.03)
    counts = np.bincount(np.concatenate(resamples), minlength=200)
    assert counts.min() > 0.9 * 2_000
    assert counts.max() < 1.1 * 2_000


@pytest.mark.parametrize("memory", [0.0, 0.4])
def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says(memory: float) -> None:
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


def test_too_few_returns_or_none_that_move_have_no_interval() -> None:
    assert sharpe_interval([0.01, -0.01] * 5, 365) is None
    assert return_interval([0.01] * 5) is None
    assert sharpe_interval([0.0] * 100, 365) is None
    assert sharpe_interval([0.001] * 100, 365) is None  # rounding is no risk
    assert probabilistic_sharpe([0.0] * 100) is None


def test_an_account_that_was_lost_stays_lost() -> None:
    interval = return_interval([0.01] * 30 + [-1.0])
    assert interval is not None
    assert interval.value == pytest.approx(-1.0)
    assert interval.low == pytest.approx(-1.0)


def test_pairing_sees_what_the_market_hides() -> None:
    market = series(400, seed=5, mean=0.001)
    better = difference(market + 0.0005 + series(400, seed=6) * 0.05, market, 365)
    assert better is not None
    assert better.total_return.low > 0
    assert better.sharpe.low > 0
    assert better.worse == 0.0
    alone = return_interval(market)
    assert alone is not None
    assert better.total_return.value < alone.high - alone.low  # much less than what either varies by itself


def test_against_itself_nothing_is_gained() -> None:
    market = series(100, seed=5)
    same = difference(market, market, 365)
    assert same is not None
    assert (same.sharpe.low, same.sharpe.high, same.total_return.value) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="one length"):
        difference(market, market[1:], 365)


def test_the_probabilistic_ratio_is_that_of_quantstats() -> None:
    values = series(2_000, seed=9, mean=0.0004)
    reference = float(qs.probabilistic_sharpe_ratio(pd.Series(values), periods=1))
    assert probabilistic_sharpe(values) == pytest.approx(reference, abs=1e-4)


def test_the_deflated_ratio_is_that_of_the_paper() -> None:
    """The example of Bailey and López de Prado (2014): 100 trials, annual variance 1/2, 1,250 days, annual Sharpe ratio 2.5."""
    threshold = expected_best_sharpe(100, 0.5 / 250)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    assert sharpe_confidence(2.5 / 250**0.5, 1_250, -3.0, 10.0, threshold) == pytest.approx(0.9004, abs=5e-5)


def test_the_more_is_tried_the_less_the_best_proves() -> None:
    noise = [series(500, seed=seed) for seed in range(200)]
    best = max(noise, key=lambda values: sharpe(values) or 0.0)
    ratios = [sharpe(values) or 0.0 for values in noise]
    alone, deflated = probabilistic_sharpe(best), deflated_sharpe(best, 200, trial_sharpes=ratios)
    assert alone is not None
    assert deflated is not None
    assert alone > 0.97  # looks like skill, but is the luckiest of 200
    assert deflated < 0.9
    assert deflated_sharpe(best, 1) == alone
    # the stand-in variance is near the real one
    assert deflated_sharpe(best, 200) == pytest.approx(deflated, abs=0.1)


def test_equity_becomes_returns_a_day_that_compound_to_the_whole() -> None:
    start = 20_000 * DAY_MS
    ts = start + HOUR_MS * np.arange(7, 80)  # from seven in the morning, for three days and a little
    equity = 100.0 + np.arange(73)
    ends, returns = periodic_returns(ts, equity, 90.0)
    assert (ends - start).tolist() == [DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 79 * HOUR_MS]
    assert np.prod(1 + returns) == pytest.approx(172.0 / 90.0)
    assert returns[1] == pytest.approx(141 / 117 - 1)
    assert not len(periodic_returns([], [], 1.0)[0])
