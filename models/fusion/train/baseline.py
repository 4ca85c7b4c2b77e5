"""Baselines of the fusion network: gradient-boosted trees on the same rows, and the class frequencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.calibration import fit_temperature, softmax
from models.fusion import CLASSES
from models.fusion.train.fusion_recipe import FusionRecipe
from models.fusion.train.purged_splits import Ints, Parts

Floats = NDArray[np.float64]
Table = Callable[[Ints], Floats]
"""Row numbers (n,) → the inputs of those rows, (n, inputs)."""

_WIDE: Final = 64  # with more inputs, a split considers a random fifth of them


def class_shares(label: Ints, parts: Parts) -> Floats:
    """Return the class frequencies of the training part as probabilities, (test rows, 3)."""
    counts = np.bincount(label[parts.train], minlength=len(CLASSES))
    return np.tile(counts / counts.sum(), (len(parts.test), 1))


def gradient_boosting(table: Table, label: Ints, parts: Parts, recipe: FusionRecipe) -> Floats:
    """Return probabilities (test rows, 3) of scikit-learn's histogram gradient boosting.

    As for the network, the validation part stops training early and the calibration part fits the
    temperature.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    train, validation = table(parts.train), table(parts.validation)
    model = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=200,
        max_leaf_nodes=15,
        min_samples_leaf=100,
        l2_regularization=1.0,
        max_features=0.2 if train.shape[1] > _WIDE else 1.0,
        early_stopping=True,
        n_iter_no_change=10,
        class_weight="balanced" if recipe.balance == "weights" else None,
        random_state=recipe.seed,
    )
    model.fit(train, label[parts.train], X_val=validation, y_val=label[parts.validation])
    calibration, test = (np.log(model.predict_proba(table(rows))) for rows in (parts.calibration, parts.test))
    return softmax(test, fit_temperature(calibration, label[parts.calibration]))
