"""The event study and the half-life of sentiment, on prices with a known effect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.daily import Closes
from agent.analysis.decay import sentiment_decay
from agent.analysis.event_study import Headlines, event_study, headlines_of
from agent.core.events import HOUR_MS

START = 1_704_067_200_000


def closes_of(log_steps: np.ndarray) -> Closes:
    ts = START + np.arange(1, len(log_steps) + 1) * HOUR_MS
    return Closes(ts, 100 * np.exp(np.cumsum(log_steps)))


def headlines_at(bars: np.ndarray, score: np.ndarray, symbol: str = "X") -> Headlines:
    """Return headlines that are known a minute after the close of each of `bars`."""
    predicted = np.where(score > 0, 2, np.where(score < 0, 0, 1))
    return Headlines(START + (bars + 1) * HOUR_MS + 60_000, np.full(len(bars), symbol), score, predicted)


def test_a_jump_two_bars_after_the_headline_appears_at_bar_two() -> None:
    """Without noise the path is exact: up 1 % in the second bar, minus the drift of all bars."""
    steps = np.zeros(400)
    at = np.arange(20, 380, 40)
    steps[at + 2] = 0.01
    study = event_study(
        headlines_at(at, np.ones(len(at))), {"X": closes_of(steps)}, HOUR_MS, before=5, after=10
    )
    assert study is not None
    drift = steps[1:].mean()
    expected = [0.01 * (offset >= 2) - drift * offset for offset in study.offsets]
    path = study.classes["bullish"]
    assert path.mean == pytest.approx(expected, abs=1e-12)
    assert path.low == pytest.approx(path.mean)
    assert (path.events, study.left_out) == (len(at), 0)


def test_classes_are_separate_and_a_move_before_the_headline_appears_before_bar_zero() -> None:
    rng = np.random.default_rng(5)
    steps = rng.normal(0, 0.001, 20_000)
    at = np.arange(50, 19_900, 50)
    side = np.where(rng.random(len(at)) < 0.5, 1.0, -1.0)
    for lag in (-2, -1, 0):  # the price has moved when the headline is published
        steps[at + lag] += 0.004 * side
    study = event_study(headlines_at(at, side), {"X": closes_of(steps)}, HOUR_MS, before=10, after=10)
    assert study is not None
    for name, sign in (("bullish", 1), ("bearish", -1)):
        path = study.classes[name]
        moved_before = -path.mean[study.offsets.index(-3)]
        assert sign * moved_before == pytest.approx(0.012, rel=0.1)
        last = study.offsets.index(10)
        assert path.low[last] < 0 < path.high[last], "the price moves no further"


def test_headlines_without_a_complete_window_are_left_out_and_counted() -> None:
    at = np.array([1, 50, 98])
    study = event_study(
        headlines_at(at, np.ones(3)), {"X": closes_of(np.full(100, 0.001))}, HOUR_MS, before=5, after=5
    )
    assert study is not None
    assert (study.classes["bullish"].events, study.left_out) == (1, 2)
    assert (
        event_study(
            headlines_at(at, np.ones(3), "Y"), {"X": closes_of(np.ones(100))}, HOUR_MS, before=5, after=5
        )
        is None
    )
    assert event_study(headlines_of([]), {}, HOUR_MS, before=5, after=5) is None


def test_the_band_has_its_coverage_although_headlines_come_in_bursts() -> None:
    """Twenty headlines share one move: a bootstrap over headlines would give much too narrow bands."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        steps = rng.normal(0, 0.01, 24 * 60)
        at = np.repeat(np.arange(12, 24 * 58, 24), 20)
        study = event_study(
            headlines_at(at, np.ones(len(at))), {"X": closes_of(steps)}, HOUR_MS, before=0, after=3
        )
        assert study is not None
        path = study.classes["bullish"]
        covered += path.low[3] <= 0 <= path.high[3]
    assert covered >= 50  # of 60, at 95 %


def effect(
    half_life: float, strength: float, seed: int, bars: int = 24 * 500
) -> tuple[Headlines, dict[str, Closes]]:
    """Return hourly bars, and a headline every second hour whose effect has this half-life (in bars)."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.01, bars)
    at = np.arange(10, bars - 60, 2)
    score = rng.uniform(-1, 1, len(at))
    for lag in range(1, 60):
        steps[at + lag] += strength * score * 0.5 ** ((lag - 1) / half_life)
    return headlines_at(at, score), {"X": closes_of(steps)}


@pytest.mark.parametrize("half_life", [3.0, 8.0])
def test_the_half_life_of_a_known_effect_is_found(half_life: float) -> None:
    found = sentiment_decay(*effect(half_life, 0.004, seed=2), HOUR_MS, stretch=1, stretches=24)
    assert found is not None
    assert found.half_life is not None, found.reason
    assert found.half_life_low is not None
    assert found.half_life_low <= half_life * HOUR_MS <= (found.half_life_high or np.inf)
    assert found.half_life == pytest.approx(half_life * HOUR_MS, rel=0.4)
    assert found.ic[0] > found.ic[12] > -0.05
    assert found.ages[:2] == [HOUR_MS, 2 * HOUR_MS]


def test_the_half_life_of_an_inverse_effect_is_found() -> None:
    found = sentiment_decay(*effect(5.0, -0.004, seed=3), HOUR_MS, stretch=1, stretches=24)
    assert found is not None
    assert found.initial is not None
    assert found.initial.value < found.initial.high < 0
    assert found.half_life is not None


def test_without_an_effect_no_half_life_is_given() -> None:
    """Of 40 samples without an effect, at most 10 % may have a half-life by chance."""
    stated = 0
    for seed in range(40):
        found = sentiment_decay(*effect(5.0, 0.0, seed, bars=24 * 90), HOUR_MS, stretch=1, stretches=12)
        assert found is not None
        stated += found.half_life is not None
        assert (found.reason == "") == (found.half_life is not None)
    assert stated <= 4


def test_the_coefficient_equals_that_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats")
    headlines, closes = effect(5.0, 0.004, seed=4, bars=24 * 60)
    headlines = headlines._replace(score=np.round(headlines.score, 1))  # with ties
    found = sentiment_decay(headlines, closes, HOUR_MS, stretch=2, stretches=3)
    assert found is not None
    logs = np.log(closes["X"].price)
    row = (headlines.ts - START) // HOUR_MS - 1
    for number in range(3):
        moves = logs[row + 2 * number + 2] - logs[row + 2 * number]
        assert found.ic[number] == pytest.approx(scipy.spearmanr(headlines.score, moves).statistic)


def test_too_few_headlines_have_no_decay() -> None:
    headlines, closes = effect(5.0, 0.004, seed=4, bars=24 * 60)
    few = Headlines(*(column[:20] for column in headlines))
    assert sentiment_decay(few, closes, HOUR_MS, stretch=1, stretches=3) is None


@given(seed=st.integers(0, 50), shift=st.floats(-0.01, 0.01))
@settings(max_examples=20, deadline=None)
def test_the_drift_of_the_market_is_removed(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.01, 500)
    headlines = headlines_at(rng.integers(20, 470, 30), rng.uniform(-1, 1, 30))
    one, other = (
        event_study(headlines, {"X": closes_of(moved)}, HOUR_MS, before=5, after=20)
        for moved in (steps, steps + shift)
    )
    assert one is not None
    assert other is not None
    for name, path in one.classes.items():
        assert other.classes[name].mean == pytest.approx(path.mean, abs=1e-9)
