"""Weights, temperature and bound of disagreement of a logarithmic pool, by maximum likelihood.

The weights are fitted by exponentiated gradient descent (Kivinen and Warmuth 1997), which stays on the
simplex, by turns with the temperature. If every member scores every text, the loss is convex in
weights / temperature, so the result is the best one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from models.calibration import RANGE, fit_temperature, softmax
from models.classification_metrics import Floats, Ints
from models.sentiment.ensemble.pooling import answered, log_probabilities, members_differ, pool, pool_logits

LEAST_WEIGHT: Final = 0.01
"""A member with a smaller weight gets 0: it would cost time and change nothing."""
LEAST_ROWS: Final = 20
"""Fewest texts on which members differ from which a bound is fitted."""
ALWAYS: Final = 1.0
"""Bound with which the ensemble abstains whenever its members differ."""
_ROUNDS: Final = 500
_STEPS: Final = 10  # of the weights, for each fit of the temperature
_TINY: Final = 1e-9  # improvement of the loss, in nats, at which the fit ends
_SMALLEST_STEP: Final = 1e-6
_LARGEST_STEP: Final = 1e6


class PoolFit(NamedTuple):
    """Fitted parameters of a pool; `weights` (members,) sum to 1."""

    weights: Floats
    temperature: float
    agree_above: float = 0.0


def pool_loss(logs: Floats, weights: Floats, temperature: float, truth: Ints) -> float:
    """Return the mean negative log-likelihood of the texts that have a score, in nats."""
    return _loss(pool_logits(logs, weights), temperature, truth)


def fit_pool(probabilities: Floats, truth: Ints) -> PoolFit:
    """Fit weights and temperature to probabilities (members, texts, 3) and true classes (texts,).

    Weights below `LEAST_WEIGHT` become 0, and the others are fitted again. Texts that no member with a weight
    scores are left out.
    """
    logs = log_probabilities(probabilities)
    kept = np.arange(len(probabilities))
    while True:
        known = answered(logs[kept]).any(axis=0)
        own, temperature = _fit(logs[kept][:, known], truth[known])
        if (own >= LEAST_WEIGHT).all():
            break
        kept = kept[own >= LEAST_WEIGHT]
    weights = np.zeros(len(probabilities))
    weights[kept] = own
    return PoolFit(weights, temperature)


def fit_bound(probabilities: Floats, fitted: PoolFit, truth: Ints, precision: float) -> float:
    """Return the lowest pooled confidence from which texts on which members differ are right often enough.

    "Often enough" is the share `precision` of at least `LEAST_ROWS` such texts. Returns 0 if all of them
    satisfy it, `ALWAYS` without such a bound.
    """
    differ = members_differ(probabilities, fitted.weights)
    pooled = pool(probabilities[:, differ], fitted.weights, fitted.temperature)
    confidence = pooled.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    right = (pooled.argmax(axis=1) == truth[differ])[order]
    shares = right.cumsum() / np.arange(1, len(right) + 1)
    last_of_equal = np.append(ordered[1:] < ordered[:-1], True)[: len(ordered)]
    enough = (shares >= precision) & (np.arange(1, len(right) + 1) >= LEAST_ROWS) & last_of_equal
    if not enough.any():
        return ALWAYS
    last = int(np.flatnonzero(enough)[-1])
    return 0.0 if last == len(right) - 1 else float(ordered[last])


def decide(probabilities: Floats, fitted: PoolFit) -> Floats:
    """Return the ensemble's scores (texts, 3), with NaN for an abstention."""
    pooled = pool(probabilities, fitted.weights, fitted.temperature)
    silent = members_differ(probabilities, fitted.weights) & (pooled.max(axis=1) < fitted.agree_above)
    return np.where(silent[:, None], np.nan, pooled)


def _fit(logs: Floats, truth: Ints) -> tuple[Floats, float]:
    weights, temperature, step = np.full(len(logs), 1 / len(logs)), 1.0, 1.0
    loss = np.inf
    for _ in range(_ROUNDS):
        before = loss
        temperature = float(np.clip(fit_temperature(pool_logits(logs, weights), truth), *RANGE))
        if np.isnan(temperature):
            break  # a weight is 0 and its member alone scores some text: the fit goes on without that member
        loss = pool_loss(logs, weights, temperature, truth)
        if len(weights) == 1:
            break
        for _ in range(_STEPS):
            weights, loss, step = _descend(logs, weights, temperature, truth, loss, step)
        if before - loss < _TINY:
            break
    return weights, temperature


def _descend(
    logs: Floats, weights: Floats, temperature: float, truth: Ints, loss: float, step: float
) -> tuple[Floats, float, float]:
    """Take one step that lowers the loss, if there is one; return weights, loss and the next step's size."""
    gradient = _gradient(logs, weights, temperature, truth)
    gradient = gradient - weights @ gradient
    while step > _SMALLEST_STEP:
        raised = np.log(np.maximum(weights, 1e-300)) - step * gradient
        moved = np.exp(raised - raised.max())
        moved /= moved.sum()
        found = pool_loss(logs, moved, temperature, truth)
        if found < loss:
            return moved, found, min(step * 2, _LARGEST_STEP)
        step /= 2
    return weights, loss, 1.0  # the temperature moves next


def _gradient(logs: Floats, weights: Floats, temperature: float, truth: Ints) -> Floats:
    """Return the derivative of `pool_loss` by each weight, (members,)."""
    known = answered(logs)
    pooled = pool_logits(logs, weights)
    total = (weights[:, None] * known).sum(axis=0)
    error = softmax(pooled, temperature)
    error[np.arange(len(truth)), truth] -= 1
    away = np.where(known[:, :, None], logs - pooled, 0.0)
    by_text = (away * error).sum(axis=2) / np.maximum(total, 1e-300)
    return np.asarray(np.nan_to_num(by_text).mean(axis=1) / temperature)


def _loss(logits: Floats, temperature: float, truth: Ints) -> float:
    chosen = softmax(logits, temperature)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chosen[~np.isnan(chosen)], 1e-300)).mean())
