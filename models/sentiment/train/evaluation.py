"""A model folder, whichever kind, against a labelled set. An exported folder needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.errors import ConfigError
from agent.system.atomic import settled
from models.cards import read_card
from models.classification_metrics import Floats, Ints, report
from models.labels import LABELS, index
from models.sentiment.train.datasets import Dataset, Example


def truth_of(examples: Sequence[Example]) -> Ints:
    """Class indices (n,) of examples."""
    return np.array([index(example.label) for example in examples], dtype=np.int64)


def probabilities_of(folder: Path, texts: Sequence[str], *, base: str | None = None) -> Floats:
    """Calibrated probabilities (n, 3) by an exported or a trained folder; rows of NaN where the model abstained.

    Raises ModelError for a folder that cannot be loaded, ConfigError where an adapter is named and torch is not installed.
    """
    folder = settled(folder)
    read_card(folder)
    if (folder / "model.onnx").is_file():
        from models.sentiment.serve.scorer import Scorer

        scores = Scorer.load(folder).score(texts)
        return np.array(
            [(np.nan,) * len(LABELS) if score.abstained else score.probabilities for score in scores],
            dtype=np.float64,
        )
    try:
        from models.sentiment.train.trained_model import load_trained
    except ImportError as error:
        raise ConfigError(
            f"{folder} is an adapter, which needs {error.name}",
            hint='pip install "tapewire[train]", or name an exported folder',
        ) from error
    return load_trained(folder, base=base).probabilities(texts)


def evaluate(
    folder: Path, dataset: Dataset, *, base: str | None = None, resamples: int = 1000
) -> dict[str, Any]:
    """Everything that `tapewire evaluate` prints. `seen` says that the model was trained on this very file."""
    card = read_card(folder)
    probabilities = probabilities_of(folder, [example.text for example in dataset.examples], base=base)
    return {
        "model": card.fingerprint[:12],
        "data": dataset.record.name,
        "seen": dataset.record.sha256 in {record.sha256 for record in card.datasets},
        **report(probabilities, truth_of(dataset.examples), resamples=resamples),
    }
