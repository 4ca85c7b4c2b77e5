"""Invalid models, made from the tiny model by changing its graph, its tokenizer or its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from models.cards import read_card, write_card
from models.sentiment.serve.scorer import MODEL_NAME, TOKENIZER_NAME, fingerprint
from tests.models.tiny_model import WORDS


def rehashed(folder: Path) -> Path:
    """Update the card's fingerprint to match the files in `folder`, and return `folder`."""
    card = read_card(folder)
    card.files = {}
    card.fingerprint = fingerprint(folder, card)
    write_card(card, folder)
    return folder


def with_constant(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Change one constant of the graph."""
    model = onnx.load(folder / MODEL_NAME)
    for constant in model.graph.initializer:
        if constant.name == name:
            constant.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(constant).copy()), name))
    onnx.save(model, folder / MODEL_NAME)
    return rehashed(folder)


def everywhere(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda constant: np.full_like(constant, value)


def for_word(word: str, value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that fills one token's row of the embedding `lean` with `value`."""

    def change(lean: np.ndarray) -> np.ndarray:
        lean[WORDS.index(word)] = value
        return lean

    return change


def with_tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the content of tokenizer.json."""
    content = json.loads((folder / TOKENIZER_NAME).read_bytes())
    change(content)
    (folder / TOKENIZER_NAME).write_text(json.dumps(content))
    return rehashed(folder)


def catastrophic(content: dict[str, Any]) -> None:
    """Split on a regular expression that backtracks exponentially, so that tokenizers panics in Rust."""
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+(?=b)(?<!x)c|\\s+"},
        "behavior": "Removed",
        "invert": False,
    }


def with_card(folder: Path, **fields: Any) -> Path:
    """Overwrite fields of card.json without validation; the fingerprint stays the same."""
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))
    return folder
