"""Forecasts compared with outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from agent.analysis.daily import Closes
from agent.analysis.outcomes import Forecasts, outcomes
from agent.core.events import HOUR_MS

START = 1_704_067_200_000
STEPS = np.random.default_rng(9).normal(0, 0.01, 5_000)
CLOSES = {"X": Closes(START + np.arange(1, 5_001) * HOUR_MS, 100 * np.exp(np.cumsum(STEPS)))}
MOVES = np.log(CLOSES["X"].price[4:]) - np.log(CLOSES["X"].price[:-4])
TRUTH = np.where(
    np.quantile(np.abs(MOVES), 1 / 3) < MOVES, 2, np.where(-np.quantile(np.abs(MOVES), 1 / 3) > MOVES, 0, 1)
)
BARS = np.arange(0, 4_990, 3)


def forecasts(classes: np.ndarray, confidence: np.ndarray | float) -> Forecasts:
    count = len(classes)
    return Forecasts(
        START + (BARS[:count] + 1) * HOUR_MS,
        np.full(count, "X"),
        classes,
        np.broadcast_to(confidence, count).astype(float),
    )


def test_perfect_forecasts_are_correct_and_a_third_of_the_outcomes_is_flat() -> None:
    found = outcomes("predictions", forecasts(TRUTH[BARS], 0.9), CLOSES, HOUR_MS, 4)
    assert found is not None
    assert found.accuracy.value == found.accuracy.low == 1
    assert np.trace(found.confusion) == found.count == len(BARS)
    actual = np.sum(found.confusion, axis=0) / found.count
    assert actual[1] == pytest.approx(1 / 3, abs=0.03)
    assert found.chance == pytest.approx(max(actual))


@pytest.mark.parametrize(("hour", "actual"), [(48.5, "up"), (49.0, "up"), (49.5, "flat"), (50.0, "flat")])
def test_the_move_starts_at_the_first_close_after_the_forecast(hour: float, actual: str) -> None:
    """The price jumps in the bar from hour 49 to 50: a forecast during that bar comes too late."""
    price = np.where(np.arange(1, 101) < 50, 100.0, 120.0) * 1.0001 ** np.arange(100)
    closes = {"X": Closes(START + np.arange(1, 101) * HOUR_MS, price)}
    ts = START + int(hour * HOUR_MS)
    found = outcomes(
        "signals",
        Forecasts(np.array([ts]), np.array(["X"]), np.array([2]), np.array([0.9])),
        closes,
        HOUR_MS,
        1,
    )
    assert found is not None
    assert found.confusion[2][("down", "flat", "up").index(actual)] == 1


def test_calibrated_confidence_lies_on_the_diagonal() -> None:
    """Forecasts with confidence c are correct with probability c: all intervals but one contain it."""
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.35, 0.95, len(BARS))
    truth = TRUTH[BARS]
    correct = rng.random(len(BARS)) < confidence
    calibrated = np.where(correct, truth, (truth + rng.integers(1, 3, len(BARS))) % 3)
    found = outcomes("signals", forecasts(calibrated, confidence), CLOSES, HOUR_MS, 4)
    assert found is not None
    assert sum(one.right.low <= one.confidence <= one.right.high for one in found.bins) >= len(found.bins) - 1
    assert sum(one.count for one in found.bins) == found.count
    assert [one.confidence for one in found.bins] == sorted(one.confidence for one in found.bins)


def test_random_guesses_are_correct_a_third_of_the_time_at_any_confidence() -> None:
    rng = np.random.default_rng(5)
    found = outcomes("signals", forecasts(rng.integers(0, 3, len(BARS)), 0.99), CLOSES, HOUR_MS, 4)
    assert found is not None
    assert found.accuracy.low < 1 / 3 < found.accuracy.high
    assert found.bins[0].confidence == pytest.approx(0.99)


def test_forecasts_without_a_known_outcome_are_left_out() -> None:
    late = Forecasts(
        np.array([START, START + 4_998 * HOUR_MS, START + 50 * HOUR_MS]),
        np.array(["X", "X", "Y"]),
        np.ones(3, int),
        np.ones(3),
    )
    assert outcomes("signals", late, CLOSES, HOUR_MS, 4) is None
    both = Forecasts(
        *(np.concatenate(pair) for pair in zip(late, forecasts(TRUTH[BARS[:5]], 0.5), strict=True))
    )
    found = outcomes("signals", both, CLOSES, HOUR_MS, 4)
    assert found is not None
    assert (found.count, found.left_out) == (5, 3)
