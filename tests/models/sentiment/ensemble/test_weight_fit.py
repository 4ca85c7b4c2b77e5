"""Weights against a grid, the temperature, and the bound of disagreement on counted rows."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from models.calibration import fit_temperature, softmax
from models.classification_metrics import Floats, Ints
from models.sentiment.ensemble.pooling import log_probabilities, pool_logits
from models.sentiment.train.ensembles.weight_fit import (
    ALWAYS,
    LEAST_WEIGHT,
    PoolFit,
    decide,
    fit_bound,
    fit_pool,
    pool_loss,
)


def drawn(seed: int, *noise: float, texts: int = 400, missing: float = 0.0) -> tuple[Floats, Ints]:
    """Draw classes, and answers of members that see each class with so much noise of their own."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, texts)
    seen = [2 * np.eye(3)[truth] + rng.normal(0, own, (texts, 3)) for own in noise]
    found = np.stack([softmax(logits) for logits in seen])
    found[rng.random(found.shape[:2]) < missing] = np.nan
    return found, truth


def grid_loss(answers: Floats, truth: Ints, steps: int = 50) -> float:
    """Return the least loss over a grid of the simplex, each with its own temperature."""
    logs, best = log_probabilities(answers), np.inf
    for shares in product(range(steps + 1), repeat=len(answers) - 1):
        if sum(shares) <= steps:
            weights = np.array([*shares, steps - sum(shares)]) / steps
            known = ~np.isnan(answers).any(axis=2).all(axis=0)
            logits = pool_logits(logs[:, known], weights)
            rows = ~np.isnan(logits).any(axis=1)
            if rows.all():
                temperature = fit_temperature(logits, truth[known])
                best = min(best, pool_loss(logs[:, known], weights, temperature, truth[known]))
    return best


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("noise", [(1.0, 1.0), (0.8, 1.5), (1.0, 1.5, 2.0), (1.0, 1.0, 2.5)])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_grid_point_is_better(seed: int, noise: tuple[float, ...], missing: float) -> None:
    answers, truth = drawn(seed, *noise, missing=missing)
    fitted = fit_pool(answers, truth)
    known = ~np.isnan(answers).any(axis=2).all(axis=0)
    logs = log_probabilities(answers[:, known])
    assert fitted.weights.sum() == pytest.approx(1.0)
    own = pool_loss(logs, fitted.weights, fitted.temperature, truth[known])
    assert own <= grid_loss(answers, truth, 50 if len(noise) == 2 else 20) + 1e-5


@pytest.mark.slow
def test_a_better_member_has_more_weight_and_noise_has_none() -> None:
    answers, truth = drawn(3, 0.8, 1.6, texts=2_000)
    rng = np.random.default_rng(0)
    noise = softmax(rng.normal(0, 1, (2_000, 3)))[None]
    weights = fit_pool(np.concatenate((answers, noise)), truth).weights
    assert weights[0] > weights[1] > LEAST_WEIGHT
    assert weights[2] < 0.03


def test_a_member_that_contradicts_the_truth_gets_no_weight() -> None:
    (good,), truth = drawn(4, 1.0)
    contrary = good[:, [1, 2, 0]]
    assert fit_pool(np.stack((contrary, good)), truth).weights.tolist() == [0.0, 1.0]


def test_texts_that_only_a_dropped_member_answers_are_left_out() -> None:
    (good,), truth = drawn(7, 1.0)
    contrary = good[:, [1, 2, 0]].copy()
    good[:50] = np.nan
    fitted = fit_pool(np.stack((contrary, good)), truth)
    alone = fit_pool(good[None], truth)
    assert fitted.weights.tolist() == [0.0, 1.0]
    assert fitted.temperature == alone.temperature
    assert np.isnan(decide(np.stack((contrary, good)), fitted)[:50]).all()


def test_one_member_is_tempered_alone() -> None:
    answers, truth = drawn(5, 1.0)
    fitted = fit_pool(answers, truth)
    assert fitted.weights.tolist() == [1.0]
    assert fitted.temperature == pytest.approx(
        fit_temperature(log_probabilities(answers[0]), truth), abs=1e-6
    )


def test_a_copy_of_a_member_changes_nothing() -> None:
    answers, truth = drawn(6, 1.0)
    alone, twice = fit_pool(answers, truth), fit_pool(np.concatenate((answers, answers)), truth)
    assert twice.weights.sum() == pytest.approx(1.0)
    assert decide(np.concatenate((answers, answers)), twice) == pytest.approx(
        decide(answers, alone), abs=1e-6
    )


def disagreeing(*rows: tuple[int, float, bool]) -> tuple[Floats, Ints]:
    """Return `count` texts of each row whose pool has that confidence in class 0, right or wrong.

    The second member's likeliest class is 2, with weight 0 in effect: pooled with weights (1, 0) the
    confidence is the first's, so weights (0.999, 0.001) are nearly it.
    """
    first, truth = [], []
    for count, confidence, right in rows:
        first += [(confidence, (1 - confidence) / 2, (1 - confidence) / 2)] * count
        truth += [0 if right else 1] * count
    second = [(0.3, 0.3, 0.4)] * len(first)
    return np.array([first, second]), np.array(truth, np.int64)


NEARLY_FIRST = PoolFit(np.array([0.999, 0.001]), 1.0)


@pytest.mark.parametrize(
    ("rows", "precision", "lowest"),
    [
        (((30, 0.9, True), (10, 0.6, True)), 0.8, 0.0),  # all right: no bound is needed
        # 30 of 30 right from .9 on, 30 of 50 from .6 on: the bound is .9
        (((30, 0.9, True), (20, 0.6, False)), 0.8, 0.9),
        # 30 of 50 are enough for .6
        (((30, 0.9, True), (20, 0.6, False)), 0.6, 0.0),
        # 15 are too few to tell
        (((15, 0.9, True), (40, 0.6, False)), 0.8, ALWAYS),
        (((40, 0.9, False),), 0.8, ALWAYS),
        ((), 0.8, ALWAYS),
    ],
)
def test_the_bound_is_the_lowest_that_is_right_often_enough(
    rows: tuple[tuple[int, float, bool], ...], precision: float, lowest: float
) -> None:
    answers, truth = disagreeing(*rows) if rows else (np.zeros((2, 0, 3)), np.zeros(0, np.int64))
    assert fit_bound(answers, NEARLY_FIRST, truth, precision) == pytest.approx(lowest, abs=5e-3)


def test_texts_of_equal_confidence_stand_on_one_side_of_the_bound() -> None:
    """20 right and 20 wrong of one confidence: a bound can't let the right ones alone pass."""
    answers, truth = disagreeing((20, 0.7, True), (20, 0.7, False))
    assert fit_bound(answers, NEARLY_FIRST, truth, 0.8) == ALWAYS


def test_the_bound_makes_abstentions() -> None:
    answers, truth = disagreeing((30, 0.9, True), (20, 0.6, False))
    fitted = NEARLY_FIRST._replace(agree_above=fit_bound(answers, NEARLY_FIRST, truth, 0.8))
    assert np.isnan(decide(answers, fitted)).all(axis=1).tolist() == [False] * 30 + [True] * 20
