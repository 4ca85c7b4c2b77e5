"""Writer of a tiny model in the serving format: each token has a fixed weight and a text gets their sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from models.cards import Card, write_card
from models.sentiment.serve.scorer import INPUTS, MODEL_NAME, OUTPUTS, PRECISION, TOKENIZER_NAME, fingerprint

WORDS = (
    "[UNK]",
    "soars",
    "crashes",
    "meets",
    "bitcoin",
    "token",
    "the",
    "after",
    "record",
    "outflows",
    "inflows",
)
LEAN = {"soars": 3.0, "inflows": 2.0, "record": 0.5, "crashes": -3.0, "outflows": -2.0}


def write_tiny(
    folder: Path, *, temperature: float = 1.0, precision: str = "fp32", threshold: float = 0.7
) -> Path:
    """Write the model to `folder` and return `folder`.

    The pooled output is (sum of the tokens' values in `LEAN`, number of tokens). The logits are a fixed
    linear map of it to (bearish, neutral, bullish).
    """
    folder.mkdir(parents=True, exist_ok=True)
    lean = np.array([[LEAN.get(word, 0.0), 1.0] for word in WORDS], np.float32)
    head = np.array([[-1.0, 0.0, 1.0], [0.0, 0.1, 0.0]], np.float32)
    nodes = [
        helper.make_node("Gather", ["lean", INPUTS[0]], ["words"]),
        helper.make_node("Cast", [INPUTS[1]], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["words", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], [OUTPUTS[1]], keepdims=0),
        helper.make_node("MatMul", [OUTPUTS[1], "head"], [OUTPUTS[0]]),
    ]
    constants = {"lean": lean, "head": head, "last": np.array([-1]), "tokens": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens_"]) for name in INPUTS],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n])
            for name, n in zip(OUTPUTS, (3, 2), strict=True)
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        folder / MODEL_NAME,
    )
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER_NAME))
    card = Card(
        base="tiny",
        method="none",
        max_length=16,
        temperature=temperature,
        threshold=threshold,
        notes={PRECISION: precision},
    )
    card.fingerprint = fingerprint(folder, card)
    write_card(card, folder)
    return folder
