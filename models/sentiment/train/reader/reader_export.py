"""Export of a reader for serving: one ONNX graph, its tokenizer and its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim
from transformers import PreTrainedTokenizerBase

from agent.core.symbols import AssetFinder
from agent.system.atomic import replaced_folder
from models.calibration import softmax
from models.cards import Card, write_card_with_hashes
from models.sentiment.serve.scorer import (
    MODEL_NAME,
    PRECISION,
    READER_INPUTS,
    READER_OUTPUTS,
    TOKENIZER_NAME,
    Scorer,
    fingerprint,
)
from models.sentiment.train.datasets.asset_labels import AssetExample, AssetTarget
from models.sentiment.train.onnx_export import is_exported, quantise_graph, write_graph
from models.sentiment.train.reader.reader_batches import tokenise
from models.sentiment.train.reader.reader_network import HeadlineReader
from models.sentiment.train.reader.reader_training import answers_of

_ASSETS: Dim = Dim("assets", min=1, max=128)


def export_reader(
    model: HeadlineReader,
    tokenizer: PreTrainedTokenizerBase,
    card: Card,
    output: Path,
    *,
    quantise: bool = True,
    reference: Sequence[str] = (),
) -> Card:
    """Write `model`, which `card` describes, to the folder `output`; return the card written there.

    An export in that folder is replaced, other files stay. `reference` are texts on which the export is
    compared with torch in fp32; the agreement goes into the card's notes.
    """
    with replaced_folder(output, keep=lambda name: not is_exported(name)) as folder:
        tokens, texts = Dim("tokens", min=2, max=512), Dim("batch", min=1, max=4096)
        ids = torch.ones(2, 7, dtype=torch.long)
        write_graph(
            model,
            (ids, torch.ones_like(ids), torch.full((2, 3, 7), 1 / 7)),
            ({0: texts, 1: tokens}, {0: texts, 1: tokens}, {0: texts, 1: _ASSETS, 2: tokens}),
            (READER_INPUTS, READER_OUTPUTS),
            folder / MODEL_NAME,
        )
        if quantise:
            quantise_graph(folder / MODEL_NAME)
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_NAME))
        card.notes |= {PRECISION: "int8" if quantise else "fp32"}
        card.fingerprint = fingerprint(folder, card)
        write_card_with_hashes(card, folder, (MODEL_NAME, TOKENIZER_NAME))
        if reference:
            card.notes |= _agreement(Scorer.load(folder), model, tokenizer, reference)
            write_card_with_hashes(card, folder, card.files)
    return card


def _agreement(
    scorer: Scorer, model: HeadlineReader, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> dict[str, str | int | float | bool | None]:
    """Compare an export with torch: the headline's scores, and those for the assets."""
    scores = scorer.score(texts)
    judged = [number for number, score in enumerate(scores) if not score.abstained]
    finder = AssetFinder()
    examples = []
    for number in judged:
        named = finder.find(texts[number]).items()
        targets = tuple(AssetTarget(asset, spans, "") for asset, spans in named)
        examples.append(AssetExample(texts[number], None, targets=targets))
    answers = answers_of(model, tokenise(examples, tokenizer, scorer.card.max_length))
    overall = softmax(answers.logits, scorer.card.temperature)
    served = np.array([scores[number].probabilities for number in judged])
    assets = [(own.bearish, own.neutral, own.bullish) for number in judged for own in scores[number].assets]
    truth = softmax(np.concatenate(answers.asset_logits), scorer.card.asset_temperature)
    own = np.array(assets).reshape(-1, truth.shape[1])
    return {
        "export_reference_texts": len(judged),
        "export_same_prediction": round(float((served.argmax(1) == overall.argmax(1)).mean()), 4),
        "export_mean_probability_difference": round(float(np.abs(served - overall).mean()), 5),
        "export_reference_assets": len(own),
        "export_same_asset_prediction": round(float((own.argmax(1) == truth.argmax(1)).mean()), 4),
    }
