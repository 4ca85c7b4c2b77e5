"""The probability of overfitting: compared with its definition, and on trials with known skill."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from agent.analysis.overfitting import overfitting
from agent.analysis.significance import sharpe


def test_it_equals_the_definition() -> None:
    table = np.random.default_rng(4).normal(0.02, 1.0, (60, 5))
    below, losses, splits = 0.0, 0, list(combinations(range(6), 3))
    for half in splits:
        inside = np.concatenate([table[10 * block : 10 * block + 10] for block in half])
        outside = np.concatenate(
            [table[10 * block : 10 * block + 10] for block in range(6) if block not in half]
        )
        chosen = int(np.argmax([sharpe(trial) for trial in inside.T]))
        ratios = [sharpe(trial) or 0.0 for trial in outside.T]
        rank = sorted(ratios).index(ratios[chosen]) + 1
        below += (rank / 6 < 0.5) + (rank / 6 == 0.5) / 2
        losses += ratios[chosen] <= 0
    found = overfitting(table, blocks=6)
    assert found is not None
    assert found.splits == len(splits) == 20
    assert found.probability == pytest.approx(below / 20)
    assert found.loss == losses / 20


def test_noise_has_a_probability_of_a_half_and_skill_a_small_one() -> None:
    random = np.random.default_rng(1)
    noise = [overfitting(random.normal(0, 1, (320, 20))) for _ in range(20)]
    assert np.mean([found.probability for found in noise if found]) == pytest.approx(0.5, abs=0.12)
    skilled = random.normal(0, 1, (320, 20))
    skilled[:, 7] += 0.5
    found = overfitting(skilled)
    assert found is not None
    assert (found.splits, found.trials) == (12_870, 20)
    assert found.probability < 0.01
    assert found.loss < 0.01


def test_overfitted_trials_fail_in_the_test_half() -> None:
    """Each trial earns in one part and loses in all others, like a rule fitted to one episode."""
    table = np.random.default_rng(2).normal(0, 0.1, (320, 16))
    for trial in range(16):
        table[:, trial] -= 0.1
        table[20 * trial : 20 * trial + 20, trial] += 2.0
    found = overfitting(table)
    assert found is not None
    assert found.loss == 1.0
    assert found.slope < 0


def test_trials_without_returns_are_average() -> None:
    found = overfitting(np.zeros((64, 3)))
    assert found is not None
    assert found.probability == 0.5
    assert found.loss == 1.0


def test_too_few_trials_or_periods_have_no_result() -> None:
    assert overfitting(np.ones((100, 1))) is None
    assert overfitting(np.ones((20, 5))) is None
    with pytest.raises(ValueError, match="even"):
        overfitting(np.ones((100, 5)), blocks=7)
