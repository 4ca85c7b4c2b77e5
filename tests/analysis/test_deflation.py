"""Results are deflated by the number and the variance of all tries, with the formula of Bailey and López de
Prado.
"""

from __future__ import annotations

from math import e, sqrt
from statistics import NormalDist, variance

import numpy as np
import pytest

from agent.analysis.daily import PeriodSampler, daily_returns
from agent.analysis.deflation import judged_period, sharpes, standing
from agent.analysis.significance import moments_of, probabilistic_sharpe
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.store.tries import Try


def a_try(variant: int, sharpe: float | None, periods: int = 250, period: int = DAY_MS) -> Try:
    return Try("s", str(variant), "cli", "sweep", "mine", {}, period, periods, sharpe, 0.0, 3.0, 0.0)


def test_the_ratio_falls_as_tries_are_added_and_equals_the_formula() -> None:
    returns = np.random.default_rng(1).normal(0.001, 0.01, 250)
    own = moments_of(returns)
    others = np.random.default_rng(2).normal(0.0, 0.06, 40).tolist()
    tries = [a_try(0, own.sharpe), *(a_try(1 + n, ratio) for n, ratio in enumerate(others))]
    alone = standing(own, DAY_MS, "s", tries[:1])
    assert alone.expected_best == 0
    assert alone.deflated_sharpe == probabilistic_sharpe(returns)
    found = [standing(own, DAY_MS, "s", tries[:n]).deflated_sharpe or 1.0 for n in (1, 10, 41)]
    assert found[0] > found[1] > found[2]
    # by hand
    ratios = [own.sharpe or 0.0, *others]
    quantile, gamma, n = NormalDist().inv_cdf, 0.5772156649015329, len(ratios)
    best = sqrt(variance(ratios)) * ((1 - gamma) * quantile(1 - 1 / n) + gamma * quantile(1 - 1 / (n * e)))
    ratio = returns.mean() / returns.std(ddof=1)
    z = (returns - returns.mean()) / returns.std()
    spread = 1 - (z**3).mean() * ratio + ((z**4).mean() - 1) / 4 * ratio**2
    expected = NormalDist().cdf((ratio - best) * sqrt(249) / sqrt(spread))
    last = standing(own, DAY_MS, "s", tries)
    assert (last.tries, last.expected_best) == (41, pytest.approx(best))
    assert last.deflated_sharpe == pytest.approx(expected)


def test_a_repetition_counts_once_and_a_still_account_as_a_ratio_of_0() -> None:
    tries = [a_try(0, 0.1), a_try(0, 0.1), a_try(1, None, 0)]
    assert sharpes(tries, 250) == [0.1, 0.0]


def test_ratios_of_the_same_window_are_scaled_by_the_root_of_time() -> None:
    tries = [a_try(0, 0.1, 100), a_try(1, 0.01, 2_400, HOUR_MS)]
    assert sharpes(tries, 100) == [0.1, pytest.approx(0.01 * sqrt(24))]


def test_tries_on_long_windows_make_no_luck_on_a_short_one_credible() -> None:
    """Without skill, at most one in twenty of the best has a deflated ratio above 95 %."""
    random = np.random.default_rng(3)
    credible = 0
    for _ in range(200):
        short = [moments_of(returns) for returns in random.normal(0.0, 0.01, (20, 30))]
        ratios = random.normal(0.0, 3650**-0.5, 400)
        tries = [a_try(n, own.sharpe, 30) for n, own in enumerate(short)]
        tries += [a_try(20 + n, ratio, 3650) for n, ratio in enumerate(ratios)]
        best = max(short, key=lambda own: own.sharpe or 0.0)
        credible += (standing(best, DAY_MS, "s", tries).deflated_sharpe or 0.0) > 0.95
    assert credible <= 10


def test_tries_on_short_windows_take_nothing_from_skill_on_a_long_one() -> None:
    own = moments_of(np.random.default_rng(4).normal(0.001, 0.01, 3650))  # 1.9 a year
    short = np.random.default_rng(5).normal(0.0, 30**-0.5, 20)
    tries = [a_try(0, own.sharpe, 3650), *(a_try(1 + n, ratio, 30) for n, ratio in enumerate(short))]
    found = standing(own, DAY_MS, "s", tries)
    assert (found.deflated_sharpe or 0.0) > 0.95


@pytest.mark.parametrize(
    ("returns", "why"), [([0.01] * 5, "fewer than 20 days"), ([0.0] * 30, "equity never moved")]
)
def test_what_is_undefined_says_why(returns: list[float], why: str) -> None:
    found = standing(moments_of(returns), DAY_MS, "s", [a_try(0, None)])
    assert (found.deflated_sharpe, found.undefined, found.tries) == (None, why, 1)


@pytest.mark.parametrize(
    ("days", "interval", "period"),
    [
        (20, MINUTE_MS, DAY_MS),
        (19, MINUTE_MS, HOUR_MS),
        (19, 4 * HOUR_MS, 4 * HOUR_MS),
        (19, 7 * DAY_MS, DAY_MS),
    ],
)
def test_a_short_window_is_judged_by_hours(days: int, interval: int, period: int) -> None:
    assert judged_period(0, days * DAY_MS, interval) == period


@pytest.mark.parametrize("seed", range(5))
def test_a_sampler_fed_in_blocks_finds_the_returns_of_days(seed: int) -> None:
    random = np.random.default_rng(seed)
    ts = np.unique(random.integers(1, 12 * DAY_MS, 60))
    ts = ts[(ts < 4 * DAY_MS) | (ts > 7 * DAY_MS)]  # days without a sample
    equity = 100 + random.normal(0, 1, len(ts)).cumsum()
    sampler = PeriodSampler(100.0, DAY_MS)
    for block in np.array_split(np.arange(len(ts)), 7):
        sampler.extend(ts[block], equity[block])
    assert sampler.returns().tolist() == daily_returns(ts, equity, 100.0)[1].tolist()


def test_a_sampler_without_samples_has_no_returns() -> None:
    assert len(PeriodSampler(100.0, DAY_MS).returns()) == 0
