"""Export of a trained model for serving: one ONNX graph, its tokenizer and its card, checked against torch.

The graph maps (input_ids, attention_mask) to (logits, pooled) and contains merged adapters and soft prompts.
If quantised, its matrix products run in int8: weights per output channel in 7 bits (8 would overflow on AVX2
without VNNI), activations with one dynamic scale per run. Those of a decoder have a scale for each
32 values instead.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch.export import Dim
from transformers import PreTrainedModel

from agent.core.errors import DataError, UsageError
from agent.system.atomic import replaced_folder
from models.calibration import softmax
from models.cards import CARD_NAME, Card, write_card_with_hashes
from models.labels import LABELS
from models.sentiment.serve.scorer import (
    BATCH_TOLERANCE,
    INPUTS,
    MODEL_NAME,
    OUTPUTS,
    PRECISION,
    ROWS_PER_RUN,
    TOKENIZER_NAME,
    Scorer,
    fingerprint,
)
from models.sentiment.train.joined_projections import join_projections
from models.sentiment.train.trained_model import TrainedClassifier, load_trained

CORPUS: Final = Path(__file__).parent / "corpus" / "headlines.csv"
OPSET: Final = 20
_REFERENCE_ROWS: Final = 300
EXPORTED_FROM: Final = "exported_from"
"""Key of `Card.notes`: fingerprint of the trained folder."""
_EXPORTED: Final = (MODEL_NAME, TOKENIZER_NAME, CARD_NAME)


def reference_texts(path: Path | None = None) -> list[str]:
    """Return the lines of a file, or a sample of the project's corpus, as texts to compare an export with
    torch on.

    Raises DataError if the file can't be read or holds no text.
    """
    try:
        if path is not None:
            texts = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
        else:
            with CORPUS.open(encoding="utf-8", newline="") as stream:
                texts = [row["text"] for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path or CORPUS}: {error}", hint="a UTF-8 file with one text a line") from None
    if not texts:
        raise DataError(f"{path} holds no text", hint="one text a line")
    return texts[:: max(1, len(texts) // _REFERENCE_ROWS)]


def export_model(
    adapter: Path,
    output: Path,
    *,
    base: str | None = None,
    quantise: bool = True,
    reference: Sequence[str] = (),
    overwrite: bool = False,
) -> Card:
    """Export the folder `adapter` to the folder `output`; return the card written there.

    `reference` are texts on which the export is compared with fp32 torch; the agreement goes into the card's
    notes. Raises ModelError as `load_trained` does, UsageError if `output` is a file, or holds an export and
    not `overwrite`.
    """
    _require_room(output, overwrite)
    trained = load_trained(adapter, "cpu", base=base)
    with replaced_folder(output, keep=lambda name: name not in _EXPORTED) as folder:
        ids = torch.ones(2, 7, dtype=torch.long)
        shape = {0: Dim("batch", min=1, max=4096), 1: Dim("tokens", min=2, max=512)}
        given, names = (ids, torch.ones_like(ids)), (INPUTS, OUTPUTS)
        write_graph(trained.model, given, (shape, shape), names, folder / MODEL_NAME)
        if quantise and trained.card.pooling == "last":
            quantise_weights(folder / MODEL_NAME)
        elif quantise:
            quantise_graph(folder / MODEL_NAME)
        trained.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_NAME))
        card = trained.card
        card.notes |= {PRECISION: "int8" if quantise else "fp32", EXPORTED_FROM: card.fingerprint}
        card.fingerprint = fingerprint(folder, card)
        write_card_with_hashes(card, folder, (MODEL_NAME, TOKENIZER_NAME))
        scorer = Scorer.load(folder)
        if reference:
            card.notes |= agreement(scorer, trained, reference)
            write_card_with_hashes(card, folder, card.files)
    return card


def agreement(
    scorer: Scorer, trained: TrainedClassifier, texts: Sequence[str]
) -> dict[str, str | int | float | bool | None]:
    """Compare an export with its fp32 torch model on `texts`, and scores in a batch with scores of single
    texts.
    """
    scores = scorer.score(texts)
    judged = [number for number, score in enumerate(scores) if not score.abstained]
    served = np.array([scores[number].probabilities for number in judged]).reshape(-1, len(LABELS))
    truth = softmax(trained.logits([texts[number] for number in judged])[0], trained.card.temperature)
    alone = np.array([scorer.score([texts[number]])[0].probabilities for number in judged[:ROWS_PER_RUN]])
    return {
        "export_reference_texts": len(judged),
        "export_same_prediction": round(float((served.argmax(1) == truth.argmax(1)).mean()), 4),
        "export_mean_probability_difference": round(float(np.abs(served - truth).mean()), 5),
        "export_largest_probability_difference": round(float(np.abs(served - truth).max()), 5),
        "export_batch_dependence": float(np.abs(alone - served[:ROWS_PER_RUN]).max()),
        "export_batch_tolerance": 0.0 if scorer.card.notes[PRECISION] == "int8" else BATCH_TOLERANCE,
    }


def _require_room(output: Path, overwrite: bool) -> None:
    existing = [name for name in _EXPORTED if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file", hint="name a folder to write")
    if existing and not overwrite:
        hint = "name another folder, or pass --force"
        raise UsageError(f"{output} holds {', '.join(existing)} already", hint=hint)


def write_graph(
    model: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    shapes: tuple[dict[int, Dim], ...],
    names: tuple[Sequence[str], Sequence[str]],
    path: Path,
) -> None:
    """Write a network as one file. `shapes` are the dynamic dimensions of each of the example `inputs`;
    `names` are those of inputs and outputs.
    """
    with _quiet(), torch.inference_mode(), _plain_attention(model):
        program = torch.onnx.export(
            model.eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    graph = program.model_proto
    # The shapes that torch records for intermediate values contradict those that quantisation infers
    del graph.graph.value_info[:]
    join_projections(graph.graph)
    onnx.save(graph, path)


def is_exported(name: str) -> bool:
    """True for the files that an export consists of."""
    return name in _EXPORTED


def quantise_graph(path: Path) -> None:
    """Replace a graph by one whose matrix products run in int8."""
    full = path.with_suffix(".fp32.onnx")
    path.rename(full)
    with _quiet():
        quantize_dynamic(full, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    full.unlink()


def quantise_weights(path: Path) -> None:
    """Replace a graph by one whose weights are 8-bit integers with a scale for each 32 of them.

    For decoders: single channels of their activations are so large that one scale for all loses the others.
    """
    with _quiet():
        quantiser = MatMulNBitsQuantizer(
            onnx.load(path), bits=8, block_size=32, is_symmetric=True, accuracy_level=4
        )
        quantiser.process()
        onnx.save(quantiser.model.model, path)


@contextlib.contextmanager
def _plain_attention(model: torch.nn.Module) -> Iterator[None]:
    """Let transformers compute attention in single operations, which onnxruntime runs faster than those that
    the exporter makes of torch's own function.
    """
    bodies = [body for body in model.modules() if isinstance(body, PreTrainedModel)]
    before = [body.config._attn_implementation for body in bodies]
    for body in bodies:
        body.set_attn_implementation("eager")
    try:
        yield
    finally:
        for body, kind in zip(bodies, before, strict=True):
            body.set_attn_implementation(kind)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Suppress the exporters' warnings and log messages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
