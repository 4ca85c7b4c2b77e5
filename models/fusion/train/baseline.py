"""What the network must beat or admit: gradient-boosted trees on the same rows, and the shares of the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.calibration import fit_temperature, softmax
from models.fusion import CLASSES
from models.fusion.train.fusion_recipe import Recipe
from models.fusion.train.purged_splits import Ints, Parts

Floats = NDArray[np.float64]
Table = Callable[[Ints], Floats]
"""The inputs of the rows with these numbers, (n, inputs)."""

_WIDE: Final = 64  # inputs from which a split looks at a random fifth of them


def shares(label: Ints, parts: Parts) -> Floats:
    """The probabilities of who knows nothing but how often each class occurred, (test rows, 3)."""
    counts = np.bincount(label[parts.train], minlength=len(CLASSES))
    return np.tile(counts / counts.sum(), (len(parts.test), 1))


def boosted(table: Table, label: Ints, parts: Parts, recipe: Recipe) -> Floats:
    """Probabilities (test rows, 3) of scikit-learn's histogram gradient boosting.

    It stops early on the validation part, and gets its temperature on the calibration part, as the network does.
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
    temperature = fit_temperature(
        np.log(model.predict_proba(table(parts.calibration))), label[parts.calibration]
    )
    return softmax(np.log(model.predict_proba(table(parts.test))), temperature)
