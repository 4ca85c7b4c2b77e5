"""How good a classifier is: numbers from probabilities (n, 3) and true classes (n,), in numpy alone.

A row of NaN means that the model abstained: it counts as a miss, and is left out of the calibration metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.cards import CoverageRow, Estimate
from models.labels import LABELS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLASSES: Final = len(LABELS)
ABSTAINED: Final = -1
BINS: Final = 15
"""Equal-width confidence bins of the expected calibration error, as in Guo et al. (2017)."""


def predictions(probabilities: Floats) -> Ints:
    """The most probable class of each row, or `ABSTAINED`."""
    silent: NDArray[np.bool_] = np.asarray(np.isnan(probabilities).any(axis=1))
    return np.where(silent, ABSTAINED, np.where(silent[:, None], 0.0, probabilities).argmax(axis=1)).astype(np.int64)


def confusion(predicted: Ints, truth: Ints) -> Ints:
    """Counts (3, 3): row the true class, column the predicted one. Abstentions are in no column."""
    said = predicted != ABSTAINED
    return np.bincount(truth[said] * CLASSES + predicted[said], minlength=CLASSES**2).reshape(CLASSES, CLASSES).astype(np.int64)


def precision_recall_f1(predicted: Ints, truth: Ints) -> tuple[Floats, Floats, Floats]:
    """Per class; 0 where there is nothing to divide by."""
    table = confusion(predicted, truth)
    hits, said, true = np.diag(table), table.sum(axis=0), np.bincount(truth, minlength=CLASSES)
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(true, 1)
    return precision, recall, 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def accuracy(predicted: Ints, truth: Ints) -> float:
    """Share of rows that are right."""
    return float((predicted == truth).mean())


def macro_f1(predicted: Ints, truth: Ints) -> float:
    """Unweighted mean of the F1 of the classes that occur."""
    return float(precision_recall_f1(predicted, truth)[2][np.bincount(truth, minlength=CLASSES) > 0].mean())


def weighted_f1(predicted: Ints, truth: Ints) -> float:
    """Mean of the classes' F1, weighted by how often each is true."""
    return float(np.average(precision_recall_f1(predicted, truth)[2], weights=np.bincount(truth, minlength=CLASSES)))


def matthews(predicted: Ints, truth: Ints) -> float:
    """Matthews correlation coefficient of several classes (Gorodkin 2004); 0 where it is not defined."""
    table = confusion(predicted, truth).astype(np.float64)
    said, true, total = table.sum(axis=0), table.sum(axis=1), table.sum()
    spread = np.sqrt((total**2 - said @ said) * (total**2 - true @ true))
    return float((np.trace(table) * total - said @ true) / spread) if spread else 0.0


def ece(probabilities: Floats, truth: Ints, bins: int = BINS) -> float:
    """Expected calibration error: |accuracy − confidence| of each bin, weighted by its rows."""
    rows = reliability(probabilities, truth, bins)
    return float(sum(count * abs(right - sure) for _, count, sure, right in rows) / max(sum(count for _, count, *_ in rows), 1))


def reliability(probabilities: Floats, truth: Ints, bins: int = BINS) -> list[tuple[float, int, float, float]]:
    """(upper edge, rows, mean confidence, accuracy) of each bin that holds something."""
    probabilities, truth = _said(probabilities, truth)
    if not len(truth):
        return []
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        ((b + 1) / bins, int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for b in range(bins)
        if (inside := number == b).any()
    ]


def nll(probabilities: Floats, truth: Ints) -> float:
    """Mean negative log-likelihood of the true class, in nats."""
    probabilities, truth = _said(probabilities, truth)
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean()) if len(truth) else float("nan")


def brier(probabilities: Floats, truth: Ints) -> float:
    """Mean squared distance to the one-hot truth, in [0, 2] (Brier 1950)."""
    probabilities, truth = _said(probabilities, truth)
    return float(((probabilities - np.eye(CLASSES)[truth]) ** 2).sum(axis=1).mean()) if len(truth) else float("nan")


def coverage(
    probabilities: Floats, truth: Ints, thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
) -> tuple[CoverageRow, ...]:
    """What acting only from a confidence costs in coverage and brings in precision."""
    confidence = np.nan_to_num(probabilities.max(axis=1), nan=-1.0)
    right = predictions(probabilities) == truth
    rows = []
    for threshold in thresholds:
        acted = confidence >= threshold
        rows.append(CoverageRow(threshold, float(acted.mean()), float(right[acted].mean()) if acted.any() else None))
    return tuple(rows)


_BY_CLASS: Final[dict[str, Callable[[Ints, Ints], float]]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
    "mcc": matthews,
}
_BY_PROBABILITY: Final[dict[str, Callable[[Floats, Ints], float]]] = {"ece": ece, "nll": nll, "brier": brier}


def estimates(probabilities: Floats, truth: Ints, *, resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Each metric with its 95 % percentile-bootstrap interval (Efron 1979): rows drawn with replacement."""
    predicted = predictions(probabilities)

    def measured(rows: NDArray[np.int64]) -> list[float]:
        by_class = [metric(predicted[rows], truth[rows]) for metric in _BY_CLASS.values()]
        return by_class + [metric(probabilities[rows], truth[rows]) for metric in _BY_PROBABILITY.values()]

    rng = np.random.default_rng(seed)
    drawn = np.array([measured(rng.integers(0, len(truth), len(truth))) for _ in range(resamples)])
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    point = measured(np.arange(len(truth)))
    return {
        name: Estimate(value, float(lower), float(upper))
        for name, value, lower, upper in zip((*_BY_CLASS, *_BY_PROBABILITY), point, low, high, strict=True)
    }


def report(probabilities: Floats, truth: Ints, *, resamples: int = 1000) -> dict[str, Any]:
    """Everything that `tapewire evaluate` prints, flat names first, ready for JSON."""
    predicted = predictions(probabilities)
    precision, recall, f1 = precision_recall_f1(predicted, truth)
    found = estimates(probabilities, truth, resamples=resamples)
    return {
        "n": len(truth),
        **{name: estimate.value for name, estimate in found.items()},
        "abstained": int((predicted == ABSTAINED).sum()),
        "confidence_intervals": {name: [estimate.low, estimate.high] for name, estimate in found.items()},
        "classes": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int((truth == i).sum()),
            }
            for i, label in enumerate(LABELS)
        },
        "confusion": confusion(predicted, truth).tolist(),
        "coverage": coverage(probabilities, truth),
    }


def _said(probabilities: Floats, truth: Ints) -> tuple[Floats, Ints]:
    said = ~np.isnan(probabilities).any(axis=1)
    return probabilities[said], truth[said]
