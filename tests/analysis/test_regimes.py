"""Regimes: the rule, and that a regime never depends on prices after the beginning of its day."""

from __future__ import annotations

from decimal import Decimal as D

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.breakdown import PeriodResults, break_down
from agent.analysis.daily import DailyValues
from agent.analysis.regimes import Regime, RegimeRule, regimes, trend
from agent.analysis.trades import RoundTrip
from agent.core.events import DAY_MS, Side

RULE = RegimeRule(lookback=10, threshold=1.0)


def days_of(prices: np.ndarray) -> DailyValues:
    return DailyValues(19_723 + np.arange(len(prices)), prices)


def walk(drifts: list[float], each: int = 60, noise: float = 0.01, seed: int = 1) -> DailyValues:
    """Return a random walk with `each` days of every drift (log price per day)."""
    steps = np.repeat(drifts, each) + np.random.default_rng(seed).normal(0, noise, each * len(drifts))
    return days_of(100 * np.exp(np.cumsum(steps)))


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (1.01 ** np.arange(20), Regime.BULL),  # no noise at all
        (0.99 ** np.arange(20), Regime.BEAR),
        (np.full(20, 5.0), Regime.SIDEWAYS),
        (1.01 ** np.arange(11), Regime.UNKNOWN),  # the last of ten returns is known only after the day
        (1.01 ** np.arange(12), Regime.BULL),
    ],
)
def test_the_regime_of_a_day_depends_on_the_ten_days_before_it(path: np.ndarray, last: Regime) -> None:
    assert regimes(days_of(path), RULE)[-1] is last


def test_drift_is_distinguished_from_noise() -> None:
    names = regimes(walk([0.01, 0.0, -0.01]), RULE)
    for stretch, expected in ((names[20:60], Regime.BULL), (names[140:], Regime.BEAR)):
        assert stretch.count(expected) > 0.8 * len(stretch)
    assert Regime.BEAR not in names[20:60]


def test_the_measure_is_the_t_value_of_the_mean_return() -> None:
    days = walk([0.002], each=40)
    steps = np.diff(np.log(days.value))[-11:-1]
    assert trend(days.value, 10)[-1] == pytest.approx(steps.mean() / (steps.std(ddof=1) / 10**0.5))


def test_a_walk_without_drift_is_sideways_two_thirds_of_the_time() -> None:
    names = regimes(walk([0.0], each=40_000), RegimeRule(30, 1.0))
    # By Student's t distribution with 29 degrees of freedom
    assert names.count(Regime.SIDEWAYS) / len(names) == pytest.approx(0.675, abs=0.03)


@given(seed=st.integers(0, 200), cut=st.integers(1, 119))
@settings(max_examples=40, deadline=None)
def test_a_regime_is_known_when_its_day_begins(seed: int, cut: int) -> None:
    days = walk([0.005, -0.005], seed=seed)
    changed = days.value.copy()
    changed[cut:] *= 3.0  # whatever happens from day `cut` on
    assert regimes(days_of(changed), RULE)[: cut + 1] == regimes(days, RULE)[: cut + 1]


def test_a_lookback_of_one_day_is_rejected() -> None:
    with pytest.raises(ValueError, match="lookback 1"):
        RegimeRule(lookback=1)


def test_groups_cover_all_days_and_compound_to_the_whole() -> None:
    day = 19_723 + np.arange(50)
    own = np.where(day % 2, 0.02, -0.01)
    daily = PeriodResults(day, own, own * 1_000, np.full(50, 0.001))
    trade = RoundTrip(
        "X", Side.BUY, day[0] * DAY_MS + 1, day[3] * DAY_MS, D(1), D(1), D(1), D(5), D(0), D(0), D(0)
    )
    names = ["odd" if number % 2 else "even" for number in day]
    groups = break_down(names, daily, [trade], 365, order=("even", "odd", "never"))
    assert list(groups) == ["even", "odd"]
    assert sum(group.periods for group in groups.values()) == 50
    assert sum(group.pnl for group in groups.values()) == pytest.approx(daily.pnl.sum())
    grown = (1 + groups["even"].total_return) * (1 + groups["odd"].total_return)
    assert grown == pytest.approx(np.prod(1 + own))
    assert groups["odd"].max_drawdown == 0
    assert groups["even"].max_drawdown == pytest.approx(0.99**25 - 1)
    assert (groups["odd"].trades, groups["odd"].win_rate, groups["even"].win_rate) == (1, 1.0, None)
    assert groups["odd"].sharpe is None, "equal returns have no deviation to divide by"
