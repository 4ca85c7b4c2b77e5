"""Evaluation of a trained or exported model folder on a labelled set. An exported folder needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.core.errors import ConfigError
from agent.system.atomic import settled
from models.cards import read_card
from models.classification_metrics import Floats, Ints, report
from models.labels import LABELS
from models.sentiment.train.datasets import Dataset, Example

if TYPE_CHECKING:
    from models.sentiment.serve.headline_score import HeadlineScore


def class_indices(examples: Sequence[Example]) -> Ints:
    """Return the index in `LABELS` of each example's class, (n,)."""
    return np.array([LABELS.index(example.label) for example in examples], dtype=np.int64)


def probabilities_of(folder: Path, texts: Sequence[str], *, base: str | None = None) -> Floats:
    """Return calibrated probabilities (n, 3) by an exported or a trained folder. An abstention is a row of
    NaN.

    Raises ModelError for a folder that cannot be loaded, ConfigError for an adapter if torch is not
    installed.
    """
    folder = settled(folder)
    read_card(folder)
    if (folder / "model.onnx").is_file():
        from models.sentiment.serve.scorer import Scorer

        return as_array(Scorer.load(folder).score(texts))
    try:
        from models.sentiment.train.trained_model import load_trained
    except ImportError as error:
        raise ConfigError(
            f"{folder} is an adapter, which needs {error.name}",
            hint='pip install "tapewire[train]", or name an exported folder',
        ) from error
    return load_trained(folder, base=base).probabilities(texts)


def as_array(scores: Sequence[HeadlineScore]) -> Floats:
    """Return the probabilities of scores as (n, 3), with a row of NaN for each abstention."""
    rows = [(np.nan,) * len(LABELS) if score.abstained else score.probabilities for score in scores]
    return np.array(rows, dtype=np.float64)


def evaluate(
    folder: Path, dataset: Dataset, *, base: str | None = None, resamples: int = 1000
) -> dict[str, Any]:
    """Return what `tapewire evaluate` prints. `seen` is true if the model was trained on this very file."""
    card = read_card(folder)
    probabilities = probabilities_of(folder, [example.text for example in dataset.examples], base=base)
    return {
        "model": card.fingerprint[:12],
        "data": dataset.record.name,
        "seen": dataset.record.sha256 in {record.sha256 for record in card.datasets},
        **report(probabilities, class_indices(dataset.examples), resamples=resamples),
    }
