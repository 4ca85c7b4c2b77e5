"""Metrics of a three-class classifier from probabilities (n, 3) and true classes (n,), in numpy alone.

A row of NaN stands for an abstention: it counts as wrong and is left out of the calibration metrics. Every
metric is a function of sums over rows (`_addends`), so a bootstrap of a thousand resamples is one matrix
product.
"""

from __future__ import annotations

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
_CHUNK: Final = 100
"""Resamples whose row counts are held in memory at a time."""


def predictions(probabilities: Floats) -> Ints:
    """Return the most probable class of each row, or `ABSTAINED`."""
    abstained: NDArray[np.bool_] = np.asarray(np.isnan(probabilities).any(axis=1))
    likeliest = np.where(abstained[:, None], 0.0, probabilities).argmax(axis=1)
    return np.where(abstained, ABSTAINED, likeliest).astype(np.int64)


def measure(probabilities: Floats, truth: Ints) -> dict[str, float]:
    """Return every metric by name.

    - accuracy
    - macro_f1: mean over the classes that occur
    - weighted_f1: mean weighted by the frequency of each true class
    - mcc: Matthews' correlation for several classes (Gorodkin 2004), 0 if undefined
    - ece: |accuracy − confidence| of each of `BINS` bins, weighted by its rows
    - nll: mean negative log-likelihood in nats
    - brier: mean squared distance to the one-hot truth, in [0, 2]
    """
    sums = _addends(probabilities, truth).sum(axis=0, keepdims=True)
    return {name: float(values[0]) for name, values in _from_sums(sums).items()}


def estimates(
    probabilities: Floats, truth: Ints, *, blocks: Ints | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Return each metric with its 95 % percentile-bootstrap interval (Efron 1979), from rows drawn with
    replacement.

    Rows that depend on each other share a number in `blocks` (n,) and are drawn together.
    """
    addends = _addends(probabilities, truth)
    if blocks is not None:
        ordered = np.sort(blocks)
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
        addends = np.add.reduceat(addends[np.argsort(blocks, kind="stable")], starts, axis=0)
    rows = len(addends)
    rng = np.random.default_rng(seed)
    sums = []
    for done in range(0, resamples, _CHUNK):
        counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(_CHUNK, resamples - done))
        sums.append(counts @ addends)
    drawn = _from_sums(np.concatenate(sums))
    return {
        name: Estimate(value, *map(float, np.nanpercentile(drawn[name], [2.5, 97.5])))
        for name, value in measure(probabilities, truth).items()
    }


def chance_ece(probabilities: Floats, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the expected calibration error that chance alone gives `len(probabilities)` rows.

    The mean and the 95 % range of `ece` over truths drawn from the probabilities themselves, for which they
    are perfectly calibrated. A measured error within the range is no evidence of miscalibration.
    """
    judged = probabilities[~np.isnan(probabilities).any(axis=1)]
    confidence = judged.max(axis=1)
    bins = np.eye(BINS)[_bins(confidence)]
    right = np.random.default_rng(seed).random((resamples, len(judged))) < confidence
    found = np.abs((right - confidence) @ bins).sum(axis=1) / max(len(judged), 1)
    return Estimate(float(found.mean()), *map(float, np.percentile(found, [2.5, 97.5])))


def confusion(predicted: Ints, truth: Ints) -> Ints:
    """Return counts (3, 3) with true classes in rows and predicted ones in columns. Abstentions are left
    out.
    """
    judged = predicted != ABSTAINED
    counts = np.bincount(truth[judged] * CLASSES + predicted[judged], minlength=CLASSES**2)
    return counts.reshape(CLASSES, CLASSES).astype(np.int64)


def macro_f1(predicted: Ints, truth: Ints) -> float:
    """Return macro_f1 as `measure` defines it, from predicted classes."""
    table, true = confusion(predicted, truth), np.bincount(truth, minlength=CLASSES)
    return float(_precision_recall_f1(np.diag(table), table.sum(axis=0), true)[2][true > 0].mean())


def reliability(probabilities: Floats, truth: Ints) -> list[tuple[int, float, float]]:
    """Return (rows, mean confidence, accuracy) of each confidence bin that isn't empty."""
    *_, rows, confidence, right = _parts(_addends(probabilities, truth).sum(axis=0, keepdims=True))
    bins = zip(rows[0], confidence[0], right[0], strict=True)
    return [(int(n), float(confidence / n), float(hits / n)) for n, confidence, hits in bins if n]


def coverage(
    probabilities: Floats, truth: Ints, thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
) -> tuple[CoverageRow, ...]:
    """Return coverage and precision of acting only at or above each confidence threshold."""
    confidence = np.nan_to_num(probabilities.max(axis=1), nan=-1.0)
    right = predictions(probabilities) == truth
    rows = []
    for threshold in thresholds:
        acted = confidence >= threshold
        precision = float(right[acted].mean()) if acted.any() else None
        rows.append(CoverageRow(threshold, float(acted.mean()), precision))
    return tuple(rows)


def report(probabilities: Floats, truth: Ints, *, resamples: int = 1000) -> dict[str, Any]:
    """Return what `tapewire evaluate` prints, ready for JSON."""
    predicted = predictions(probabilities)
    found = estimates(probabilities, truth, resamples=resamples)
    table = confusion(predicted, truth)
    true = np.bincount(truth, minlength=CLASSES)
    precision, recall, f1 = _precision_recall_f1(np.diag(table), table.sum(axis=0), true)
    return {
        "n": len(truth),
        **{name: estimate.value for name, estimate in found.items()},
        "chance_ece": chance_ece(probabilities, resamples=resamples),
        "abstained": int((predicted == ABSTAINED).sum()),
        "confidence_intervals": {name: [estimate.low, estimate.high] for name, estimate in found.items()},
        "classes": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(true[i]),
            }
            for i, label in enumerate(LABELS)
        },
        "confusion": table.tolist(),
        "coverage": coverage(probabilities, truth),
    }


def _addends(probabilities: Floats, truth: Ints) -> Floats:
    """Return the contribution of each row to the sums that the metrics need: (n, 9 + 3 + 3 + 3 · BINS).

    `_parts` splits the columns.
    """
    predicted, rows = predictions(probabilities), np.arange(len(truth))
    judged = predicted != ABSTAINED
    known = np.where(judged[:, None], probabilities, 1 / CLASSES)
    cell = np.zeros((len(truth), CLASSES**2))
    cell[rows[judged], truth[judged] * CLASSES + predicted[judged]] = 1
    likelihood = -np.log(np.maximum(known[rows, truth], 1e-12))
    squared = ((known - np.eye(CLASSES)[truth]) ** 2).sum(axis=1)
    confidence = known.max(axis=1)
    bins = np.eye(BINS)[_bins(confidence)] * judged[:, None]
    scalars = np.stack([judged, likelihood * judged, squared * judged], axis=1)
    by_bin, right = bins * confidence[:, None], bins * (predicted == truth)[:, None]
    return np.concatenate([cell, np.eye(CLASSES)[truth], scalars, bins, by_bin, right], axis=1)


def _bins(confidence: Floats) -> Ints:
    """Return the number of each confidence's bin, from 0 on; a bin includes its upper bound."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _parts(sums: Floats) -> list[Floats]:
    """Split sums into confusion cells (r, 9), true (r, 3), (judged, nll, brier) (r, 3), and three of (r,
    BINS).

    The last three are rows, confidence and right predictions of each bin.
    """
    widths = (CLASSES**2, CLASSES, 3, BINS, BINS, BINS)
    return np.split(sums, np.cumsum(widths)[:-1], axis=1)


def _from_sums(sums: Floats) -> dict[str, Floats]:
    """Return the metrics of each row of sums (r, …), as arrays (r,)."""
    cells, true, scalars, rows, confidence, right = _parts(sums)
    table = cells.reshape(-1, CLASSES, CLASSES)
    hits, claimed = np.diagonal(table, axis1=1, axis2=2), table.sum(axis=1)
    f1 = _precision_recall_f1(hits, claimed, true)[2]
    occurs = true > 0
    known = np.maximum(scalars[:, 0], 1)
    return {
        "accuracy": hits.sum(axis=1) / true.sum(axis=1),
        "macro_f1": (f1 * occurs).sum(axis=1) / occurs.sum(axis=1),
        "weighted_f1": (f1 * true).sum(axis=1) / true.sum(axis=1),
        "mcc": _matthews(hits, claimed, table.sum(axis=2)),
        "ece": np.abs(right - confidence).sum(axis=1) / np.maximum(rows.sum(axis=1), 1),
        "nll": scalars[:, 1] / known,
        "brier": scalars[:, 2] / known,
    }


def _precision_recall_f1(hits: Any, claimed: Any, true: Any) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 of each class (last axis), 0 instead of a division by zero."""
    return hits / np.maximum(claimed, 1), hits / np.maximum(true, 1), 2 * hits / np.maximum(claimed + true, 1)


def _matthews(hits: Floats, claimed: Floats, true: Floats) -> Floats:
    total = true.sum(axis=1)
    spread = np.sqrt((total**2 - (claimed**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1)))
    covariance = hits.sum(axis=1) * total - (claimed * true).sum(axis=1)
    return np.asarray(np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0))
