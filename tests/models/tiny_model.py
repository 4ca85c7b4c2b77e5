"""Writer of tiny models in the serving format: each token has a fixed weight and a text gets their sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from agent.core.news_kinds import NEWS_KINDS
from models.cards import Card, write_card
from models.sentiment.serve.scorer import (
    INPUTS,
    MODEL_NAME,
    OUTPUTS,
    PRECISION,
    READER_INPUTS,
    READER_OUTPUTS,
    TOKENIZER_NAME,
    fingerprint,
)

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
READER_WORDS = (*WORDS, "ether", "solana", "lists", "hacked")
"""Vocabulary of `write_reader`."""
KIND_OF = {"soars": "price", "crashes": "price", "lists": "access", "hacked": "failure", "meets": "opinion"}
"""Kind of news that a word adds 4 to; every text has 1 for `other`."""
_HEAD = np.array([[-1.0, 0.0, 1.0], [0.0, 0.1, 0.0]], np.float32)
_POOLING = (
    helper.make_node("Gather", ["lean", INPUTS[0]], ["words"]),
    helper.make_node("Cast", [INPUTS[1]], ["mask"], to=TensorProto.FLOAT),
    helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
    helper.make_node("Mul", ["words", "weights"], ["kept"]),
    helper.make_node("ReduceSum", ["kept", "tokens"], [OUTPUTS[1]], keepdims=0),
    helper.make_node("MatMul", [OUTPUTS[1], "head"], [OUTPUTS[0]]),
)


def write_tiny(
    folder: Path, *, temperature: float = 1.0, precision: str = "fp32", threshold: float = 0.7
) -> Path:
    """Write a model of whole headlines to `folder` and return `folder`.

    The pooled output is (sum of the tokens' values in `LEAN`, number of tokens). The logits are a fixed
    linear map of it to (bearish, neutral, bullish).
    """
    graph = helper.make_graph(
        _POOLING,
        "tiny",
        [_input(name) for name in INPUTS],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n])
            for name, n in zip(OUTPUTS, (3, 2), strict=True)
        ],
        _constants(lean=_lean(WORDS), head=_HEAD, last=np.array([-1]), tokens=np.array([1])),
    )
    card = Card(
        base="tiny",
        method="none",
        max_length=16,
        temperature=temperature,
        threshold=threshold,
        notes={PRECISION: precision},
    )
    return _write(folder, graph, WORDS, card)


def write_reader(
    folder: Path,
    *,
    temperature: float = 1.0,
    asset_temperature: float = 1.0,
    kind_temperature: float = 1.0,
    precision: str = "fp32",
    threshold: float = 0.7,
) -> Path:
    """Write a model that also reads single assets and the kind of news to `folder`; return `folder`.

    Its overall outputs are those of `write_tiny`. The state of a token is (its value in `LEAN` plus that
    of the next token, 1), and an asset's is their mean over the tokens that name it, with the same linear
    map to logits. So "bitcoin soars ether crashes" is 0 overall, +3 for BTC and -3 for ETH. The logits of the
    kinds are 4 for each word of `KIND_OF`, and 1 for `other`.
    """
    kinds = np.zeros((len(READER_WORDS), len(NEWS_KINDS)), np.float32)
    for word, kind in KIND_OF.items():
        kinds[READER_WORDS.index(word), NEWS_KINDS.index(kind)] = 4.0
    bias = np.array([float(kind == "other") for kind in NEWS_KINDS], np.float32)
    nodes = [
        *_POOLING,
        helper.make_node("Mul", ["kept", "first"], ["leans"]),
        helper.make_node("Slice", ["leans", "one", "end", "one"], ["following"]),
        helper.make_node("Pad", ["following", "pads"], ["next"]),
        helper.make_node("Add", ["kept", "next"], ["states"]),
        helper.make_node("MatMul", [READER_INPUTS[2], "states"], [READER_OUTPUTS[4]]),
        helper.make_node("MatMul", [READER_OUTPUTS[4], "head"], [READER_OUTPUTS[3]]),
        helper.make_node("Gather", ["kinds", INPUTS[0]], ["of_words"]),
        helper.make_node("ReduceSum", ["of_words", "tokens"], ["of_text"], keepdims=0),
        helper.make_node("Add", ["of_text", "bias"], [READER_OUTPUTS[2]]),
    ]
    shapes: tuple[list[Any], ...] = (
        ["batch", 3],
        ["batch", 2],
        ["batch", len(NEWS_KINDS)],
        ["batch", "assets", 3],
        ["batch", "assets", 2],
    )
    graph = helper.make_graph(
        nodes,
        "reader",
        [
            *(_input(name) for name in INPUTS),
            helper.make_tensor_value_info(
                READER_INPUTS[2], TensorProto.FLOAT, ["batch", "assets", "tokens_"]
            ),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(READER_OUTPUTS, shapes, strict=True)
        ],
        _constants(
            lean=_lean(READER_WORDS),
            head=_HEAD,
            last=np.array([-1]),
            tokens=np.array([1]),
            first=np.array([1.0, 0.0], np.float32),
            one=np.array([1]),
            end=np.array([1 << 30]),
            pads=np.array([0, 0, 0, 0, 1, 0]),
            kinds=kinds,
            bias=bias,
        ),
    )
    card = Card(
        base="tiny",
        method="none",
        max_length=16,
        temperature=temperature,
        asset_temperature=asset_temperature,
        kind_temperature=kind_temperature,
        kinds=NEWS_KINDS,
        threshold=threshold,
        notes={PRECISION: precision},
    )
    return _write(folder, graph, READER_WORDS, card)


def _lean(words: tuple[str, ...]) -> np.ndarray:
    return np.array([[LEAN.get(word, 0.0), 1.0] for word in words], np.float32)


def _input(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens_"])


def _constants(**values: np.ndarray) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _write(folder: Path, graph: onnx.GraphProto, words: tuple[str, ...], card: Card) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        folder / MODEL_NAME,
    )
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER_NAME))
    card.fingerprint = fingerprint(folder, card)
    write_card(card, folder)
    return folder
