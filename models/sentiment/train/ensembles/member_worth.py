"""MemberFigures of each member and of the ensemble on held-out text, and what each member is worth.

A member's worth is the ensemble minus one that is fitted without it, on the same held-out texts. Its interval
is from a paired bootstrap: both are resampled together, in blocks of texts that depend on each other.
"""

from __future__ import annotations

from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.classification_metrics import CLASSES, Floats, Ints, measure, predictions
from models.sentiment.ensemble.ensemble_file import MemberFigures, Worth, WorthInterval
from models.sentiment.train.ensembles.weight_fit import PoolFit, decide, fit_bound, fit_pool

COVERAGES: Final = (0.25, 0.5, 0.75, 1.0)
"""Shares of the texts, the surest first, whose precision is measured."""
_RESAMPLES: Final = 1_000
_CHUNK: Final = 100
_SEED: Final = 0


def fit_all(probabilities: Floats, truth: Ints, precision: float | None) -> PoolFit:
    """Fit weights and temperature, and if `precision` is given the bound of disagreement."""
    fitted = fit_pool(probabilities, truth)
    if precision is None:
        return fitted
    return fitted._replace(agree_above=fit_bound(probabilities, fitted, truth, precision))


def figures_of(
    probabilities: Floats, truth: Ints, ms: float | None = None, cost: float = 0.0
) -> MemberFigures:
    """Measure scores (texts, 3), with NaN for abstentions."""
    found = measure(probabilities, truth)
    answered = ~np.isnan(probabilities).any(axis=1)
    return MemberFigures(
        accuracy=found["accuracy"],
        macro_f1=found["macro_f1"],
        ece=found["ece"],
        nll=float(negative_log_likelihoods(probabilities, truth).mean()),
        coverage=float(answered.mean()),
        precision_at={f"{share:g}": precision_at(probabilities, truth, share) for share in COVERAGES},
        ms=ms,
        cost=cost,
    )


def precision_at(probabilities: Floats, truth: Ints, share: float) -> float | None:
    """Return the share of right predictions among the surest `share` of the texts.

    Returns None if fewer texts are scored.
    """
    count = ceil(share * len(truth))
    confidence = np.nan_to_num(probabilities.max(axis=1), nan=-1.0)
    surest = np.argsort(-confidence, kind="stable")[:count]
    if not count or confidence[surest[-1]] < 0:
        return None
    return float((predictions(probabilities) == truth)[surest].mean())


def negative_log_likelihoods(probabilities: Floats, truth: Ints) -> Floats:
    """Return the negative log-likelihood of each text in nats; an abstention has equal probabilities."""
    known = np.where(np.isnan(probabilities), 1 / CLASSES, probabilities)
    return np.asarray(-np.log(np.maximum(known[np.arange(len(truth)), truth], 1e-12)))


def worth_of(
    member: int,
    fit: tuple[Floats, Ints],
    test: tuple[Floats, Ints],
    ensemble: Floats,
    precision: float | None,
    blocks: Ints,
) -> Worth:
    """Return the worth of a member by number.

    `fit` and `test` are (probabilities (members, texts, 3), true classes); `ensemble` (texts, 3) are the
    ensemble's scores of the test texts. Texts of one block (`blocks`, (texts,)) are drawn together.
    """
    others = np.delete(np.arange(len(fit[0])), member)
    fitted = fit_all(fit[0][others], fit[1], precision)
    without, truth = decide(test[0][others], fitted), test[1]
    right = (predictions(ensemble) == truth).astype(float) - (predictions(without) == truth)
    nll = negative_log_likelihoods(ensemble, truth) - negative_log_likelihoods(without, truth)
    return Worth(accuracy=mean_difference(right, blocks), nll=mean_difference(nll, blocks))


def mean_difference(values: Floats, blocks: Ints) -> WorthInterval:
    """Return the mean of values (n,) with the 95 % interval of a bootstrap over blocks (n,)."""
    _, row = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(row).astype(float)
    sums = np.bincount(row, weights=values)
    rng = np.random.default_rng(_SEED)
    means: list[NDArray[np.float64]] = []
    for done in range(0, _RESAMPLES, _CHUNK):
        counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), min(_CHUNK, _RESAMPLES - done))
        means.append((counts @ sums) / (counts @ sizes))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return WorthInterval(float(values.mean()), float(low), float(high))
