"""Classification metrics and calibration, checked against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import classification_metrics
from models.calibration import before_after, fit_temperature, softmax
from models.labels import LABELS

ROWS = st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.floats(-5, 5)] * 3)), min_size=5, max_size=60)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_metrics_agree_with_scikit_learn(rows: list[tuple[int, tuple[float, float, float]]]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth = np.array([label for label, _ in rows])
    probabilities = softmax(np.array([logits for _, logits in rows]))
    said, found = (
        classification_metrics.predictions(probabilities),
        classification_metrics.measure(probabilities, truth),
    )
    assert classification_metrics.macro_f1(said, truth) == pytest.approx(found["macro_f1"])
    present = sorted(set(truth))
    theirs = {"labels": present, "zero_division": 0}
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(truth, said, average="macro", **theirs))
    assert found["weighted_f1"] == pytest.approx(sklearn.f1_score(truth, said, average="weighted", **theirs))
    assert found["mcc"] == pytest.approx(sklearn.matthews_corrcoef(truth, said))
    assert found["nll"] == pytest.approx(sklearn.log_loss(truth, probabilities, labels=[0, 1, 2]))
    assert (
        classification_metrics.confusion(said, truth).tolist()
        == sklearn.confusion_matrix(truth, said, labels=[0, 1, 2]).tolist()
    )


def test_calibration_error_is_zero_if_confidence_equals_accuracy() -> None:
    probabilities = np.tile([0.75, 0.125, 0.125], (8, 1))
    assert classification_metrics.measure(probabilities, np.array([0] * 6 + [1] * 2))["ece"] == pytest.approx(
        0
    )
    assert classification_metrics.measure(probabilities, np.array([0] * 2 + [1] * 6))["ece"] == pytest.approx(
        0.5
    )
    assert classification_metrics.measure(np.eye(3), np.arange(3))["brier"] == 0


def test_an_abstention_counts_as_an_error_but_not_in_confusion_or_calibration() -> None:
    probabilities = np.array([[0.9, 0.05, 0.05], [np.nan] * 3, [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    found = classification_metrics.report(probabilities, np.array([0, 1, 1, 2]), resamples=100)
    assert found["accuracy"] == 0.75
    assert found["abstained"] == 1
    assert found["n"] == 4
    assert np.sum(found["confusion"]) == 3
    assert found["classes"]["neutral"]["recall"] == 0.5
    assert found["ece"] == pytest.approx(0.1)
    assert found["coverage"][0].coverage == 0.75


def test_intervals_contain_the_estimate_and_narrow_with_more_rows() -> None:
    rng = np.random.default_rng(0)

    def interval(rows: int) -> float:
        truth = rng.integers(0, 3, rows)
        logits = np.eye(3)[truth] + rng.normal(0, 1, (rows, 3))
        found = classification_metrics.estimates(softmax(logits), truth, resamples=200)["accuracy"]
        assert found.low <= found.value <= found.high
        return found.high - found.low

    assert interval(2000) < interval(100) / 2


def test_few_rows_have_a_calibration_error_by_chance_alone() -> None:
    """|right - n p| has the mean sqrt(2 n p (1 - p) / pi) if n is large, here with all rows in one bin."""
    for rows in (100, 400, 2_500):
        probabilities = np.tile([0.8, 0.15, 0.05], (rows, 1))
        found = classification_metrics.chance_ece(probabilities, resamples=4_000)
        assert found.value == pytest.approx(np.sqrt(2 * 0.8 * 0.2 / (np.pi * rows)), rel=0.05)
        assert found.low < found.value < found.high
    abstained = np.vstack([probabilities, np.full((500, 3), np.nan)])
    assert classification_metrics.chance_ece(abstained, resamples=4_000) == found
    assert classification_metrics.chance_ece(np.full((5, 3), np.nan)).value == 0.0


def test_reliability_bins_contain_every_row_except_abstentions() -> None:
    rows = classification_metrics.reliability(
        np.array([[0.61, 0.2, 0.19], [0.63, 0.2, 0.17], [1, 0, 0], [np.nan] * 3]), np.array([0, 1, 0, 0])
    )
    assert rows == [(2, pytest.approx(0.62), 0.5), (1, 1.0, 1.0)]


def test_coverage_falls_as_the_threshold_rises_and_precision_is_undefined_at_zero_coverage() -> None:
    rows = classification_metrics.coverage(
        np.array([[0.6, 0.2, 0.2], [0.8, 0.1, 0.1]]), np.array([1, 0]), (0.5, 0.7, 0.9)
    )
    assert [(row.coverage, row.precision) for row in rows] == [(1.0, 0.5), (0.5, 1.0), (0.0, None)]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 5.0), st.integers(0, 100))
def test_fitting_recovers_the_temperature_that_scaled_the_logits(temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (4000, 3))
    truth = (softmax(logits).cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    found = fit_temperature(logits * temperature, truth)
    assert found == pytest.approx(temperature, rel=0.15)
    nearby = [
        classification_metrics.measure(softmax(logits * temperature, found * by), truth)["nll"]
        for by in (0.97, 1.0, 1.03)
    ]
    assert min(nearby) == nearby[1]


def test_temperature_scaling_improves_calibration_and_keeps_the_predicted_class() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 3000)
    logits = 6 * (np.eye(3)[truth] * 0.5 + rng.normal(0, 0.5, (3000, 3)))
    temperature = fit_temperature(logits, truth)
    found = before_after(logits, truth, temperature)
    assert temperature > 1
    assert found["after"]["ece"] < found["before"]["ece"] / 2
    assert found["after"]["nll"] < found["before"]["nll"]
    assert (softmax(logits).argmax(axis=1) == softmax(logits, temperature).argmax(axis=1)).all()


def test_the_temperature_is_finite_for_perfectly_separated_or_empty_data() -> None:
    assert 0.05 <= fit_temperature(np.eye(3) * 50, np.arange(3)) <= 20
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == 1
    assert len(LABELS) == 3
