"""ONNX export: the exported model reproduces the trained one, and its card records the difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from agent.core.errors import DataError, ModelError, UsageError
from models.cards import DatasetRecord, read_card
from models.sentiment.serve.scorer import MODEL_NAME, Scorer
from models.sentiment.train.datasets import Example
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.onnx_export import export_model, reference_texts
from models.sentiment.train.splits import Fractions, Split, make_split
from models.sentiment.train.trained_model import load_trained
from models.sentiment.train.training import train

pytestmark = pytest.mark.train

RECORD = DatasetRecord(name="own.csv", format="csv", sha256="0" * 64, rows=144, basis="eventless (checked)")


@pytest.fixture(scope="module")
def split(headlines: tuple[Example, ...]) -> Split:
    return make_split(headlines, Fractions(0.1, 0.1, 0.2), seed=3)


def tuned(method: str, split: Split, base: Path, folder: Path) -> Path:
    recipe = Recipe(method=method, epochs=1, learning_rate=5e-3, rank=4, virtual_tokens=4, patience=0)
    return train(recipe, split, [RECORD], folder, base=str(base)).folder


def served(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    scores, pooled = Scorer.load(folder).score_and_embed(texts)
    return np.array([score.probabilities for score in scores]), np.concatenate(pooled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "base"),
    [
        ("qlora", "mean"),  # merged through dequantize()
        ("prefix", "mean"),  # the prefix's keys and values are constants of the graph
        ("ptuning", "mean"),  # the prompt encoder's output is a constant of the graph
        ("lora", "finbert"),  # with its own pooler
        ("prompt", "llama"),  # a decoder, pooled at its last token
    ],
)
def test_a_floating_point_export_reproduces_the_trained_model(
    method: str, base: str, split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = tuned(method, split, tiny_bases[base], tmp_path / "adapter")
    export_model(adapter, tmp_path / "out", quantise=False)
    texts = [example.text for example in split.test]
    trained = load_trained(adapter)
    probabilities, pooled = served(tmp_path / "out", texts)
    assert probabilities == pytest.approx(trained.probabilities(texts), abs=1e-4)
    assert pooled == pytest.approx(trained.logits(texts)[1], abs=1e-3)


@pytest.mark.slow
def test_a_quantised_export_is_smaller_and_accurate_and_is_not_overwritten_without_force(
    split: Split, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = tuned("lora", split, tiny_bases["mean"], tmp_path / "adapter")
    texts = [example.text for example in split.test]
    card = export_model(adapter, tmp_path / "int8", reference=texts)
    export_model(adapter, tmp_path / "fp32", quantise=False)
    exact = load_trained(adapter).probabilities(texts)
    assert served(tmp_path / "fp32", texts)[0] == pytest.approx(exact, abs=1e-4)
    assert (tmp_path / "int8" / MODEL_NAME).stat().st_size < 0.6 * (
        tmp_path / "fp32" / MODEL_NAME
    ).stat().st_size
    together, _ = served(tmp_path / "int8", texts)
    assert all(
        np.array_equal(served(tmp_path / "int8", [text])[0][0], row)
        for text, row in zip(texts[:3], together, strict=False)
    )
    difference = np.abs(together - exact)
    assert card.notes["export_largest_probability_difference"] == pytest.approx(difference.max(), abs=1e-4)
    assert card.notes["export_same_prediction"] >= 0.9
    assert card.notes["export_batch_dependence"] == 0
    assert read_card(tmp_path / "int8") == card
    with pytest.raises(UsageError, match=r"already.*--force"):
        export_model(adapter, tmp_path / "int8")
    with pytest.raises(ModelError, match="neither an adapter nor full weights"):
        export_model(tmp_path / "int8", tmp_path / "again")


def test_reference_texts_come_from_a_file_or_the_bundled_corpus(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("one\n\n two \n", "utf-8")
    assert reference_texts(tmp_path / "texts") == ["one", "two"]
    assert len(reference_texts()) >= 200
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name in ("latin", "missing"):
        with pytest.raises(DataError, match="UTF-8"):
            reference_texts(tmp_path / name)
