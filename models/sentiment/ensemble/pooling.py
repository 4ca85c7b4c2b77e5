"""Logarithmic pool of calibrated probabilities (Genest and Zidek 1986), and disagreement of its members.

The pool is the weighted geometric mean of the members' probabilities, normalised, then sharpened or flattened
by a temperature T:

    p(c) ~ (product over m of p_m(c) ^ w_m) ^ (1 / T)        weights w_m >= 0, which sum to 1

A member without a score has no weight for that text; the others' weights are scaled up to 1. Arrays have
the shape (members, texts, classes), with NaN for a missing score.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.calibration import softmax
from models.classification_metrics import Floats

FLOOR: Final = 1e-4
"""Least probability that a member can give. Without it, a member that is sure of one class decides alone."""


def answered(answers: Floats) -> NDArray[np.bool_]:
    """Return which rows of (…, classes) hold a score."""
    return np.asarray(~np.isnan(answers).any(axis=-1))


def log_probabilities(probabilities: Floats) -> Floats:
    """Return the logarithms of probabilities (…, classes) of at least `FLOOR`; NaN stays NaN."""
    return np.asarray(np.log(np.maximum(probabilities, FLOOR)))


def pool_logits(logs: Floats, weights: Floats) -> Floats:
    """Return the weighted means (texts, classes) of logs (members, texts, classes) for weights (members,).

    A text for which no member with a weight has a score gets a row of NaN.
    """
    known = answered(logs)
    own = weights[:, None] * known
    total = own.sum(axis=0)
    means = (own[:, :, None] * np.where(known[:, :, None], logs, 0.0)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total[:, None] > 0, means / total[:, None], np.nan)


def pool(probabilities: Floats, weights: Floats, temperature: float) -> Floats:
    """Return the pooled probabilities (texts, classes); NaN if no member with a weight has a score."""
    return softmax(pool_logits(log_probabilities(probabilities), weights), temperature)


def members_differ(probabilities: Floats, weights: Floats) -> NDArray[np.bool_]:
    """Return for each text whether the likeliest classes of the members with a weight differ."""
    known = answered(probabilities) & (weights[:, None] > 0)
    classes = np.where(known[:, :, None], probabilities, 0.0).argmax(axis=2)
    most = np.where(known, classes, -1).max(axis=0)
    least = np.where(known, classes, probabilities.shape[2]).min(axis=0)
    return np.asarray(known.any(axis=0) & (most != least))
