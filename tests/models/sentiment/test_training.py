"""Every method learns, is saved, and comes back as what it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from agent.errors import ConfigError, ModelError, UsageError
from models.cards import DatasetRecord, read_card
from models.labels import index
from models.sentiment.bases import load_base
from models.sentiment.classifier import SentimentClassifier
from models.sentiment.datasets import Example
from models.sentiment.methods import METHODS, get_method
from models.sentiment.recipe import Recipe, resolve
from models.sentiment.splits import Fractions, Split, make_split
from models.sentiment.trained import load_trained
from models.sentiment.trainer import oversampled
from models.sentiment.training import build, train

pytestmark = pytest.mark.train

RECORD = DatasetRecord(name="own.csv", format="csv", sha256="0" * 64, rows=144, latest=None, basis="eventless (checked)")
QUICK = Recipe(batch_size=16, epochs=6, learning_rate=2e-2, head_learning_rate=2e-2, rank=4, virtual_tokens=4, patience=0)


@pytest.fixture(scope="module")
def split(headlines: tuple[Example, ...]) -> Split:
    return make_split(headlines, Fractions(0.1, 0.1, 0.2), seed=3)


def recipe(method: str, **changes: object) -> Recipe:
    return msgspec.structs.replace(QUICK, method=method, **({"learning_rate": 2e-3} if method == "full" else {}) | changes)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_and_is_reloaded_as_it_was(
    method: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    done = train(recipe(method), split, [RECORD], tmp_path, base=str(tiny_bases["mean"]))
    texts = [example.text for example in split.test]
    truth = np.array([index(example.label) for example in split.test])
    again = load_trained(tmp_path)
    probabilities = again.probabilities(texts)
    assert np.allclose(probabilities.sum(axis=1), 1)
    measured = done.card.metrics["test"]
    assert (probabilities.argmax(axis=1) == truth).mean() == pytest.approx(measured["accuracy"].value)
    nll = -np.log(probabilities[np.arange(len(truth)), truth]).mean()
    assert nll == pytest.approx(measured["nll"].value, abs=1e-3)
    assert measured["accuracy"].value > 0.6, "chance is a third"
    assert 0 < done.trainable <= done.parameters
    assert (done.trainable == done.parameters) == (method == "full")
