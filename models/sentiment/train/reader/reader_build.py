"""From labelled headlines to an exported reader: split, training, calibration, export, measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import torch

from agent.core.errors import DataError
from agent.core.news_kinds import NEWS_KINDS
from models.cards import Card, latest_of
from models.sentiment.train.bases import EMBEDDED, Base, load_base
from models.sentiment.train.datasets import Example
from models.sentiment.train.datasets.asset_labels import AssetDataset, AssetExample
from models.sentiment.train.onnx_export import reference_texts
from models.sentiment.train.reader.reader_batches import tokenise
from models.sentiment.train.reader.reader_export import export_reader
from models.sentiment.train.reader.reader_measure import calibrate, measure_export, measure_reference
from models.sentiment.train.reader.reader_network import HeadlineReader
from models.sentiment.train.reader.reader_training import ReaderRecipe, ReaderSet, answers_of, fit_reader
from models.sentiment.train.splits import Fractions, make_split
from models.sentiment.train.trainer import Progress

MAX_LENGTH: Final = 96
"""Tokens of a headline."""


class AssetSplit(NamedTuple):
    """Headlines to learn from, to fit the temperatures, and to measure on."""

    train: list[AssetExample]
    calibration: list[AssetExample]
    test: list[AssetExample]

    @property
    def unplaced(self) -> int:
        """Number of labels of assets in `train` whose names aren't found in the text; they teach nothing."""
        return sum(not target.spans for example in self.train for target in example.targets)


def split_headlines(examples: Sequence[AssetExample], fractions: Fractions, seed: int) -> AssetSplit:
    """Split by time if every headline is dated, else by class; near-duplicates stay on one side.

    Raises DataError if no headline has a label for an asset, or none has a kind of news.
    """
    if not any(example.targets for example in examples):
        raise DataError("no headline has a label for an asset", hint="tapewire train sentiment needs none")
    if not any(example.kind for example in examples):
        raise DataError("no headline has a kind of news", hint="add a file of format wire")
    by_text = {example.text: example for example in examples}
    stand_ins = [Example(row.text, row.label or "neutral", row.ts, row.where) for row in by_text.values()]
    split = make_split(stand_ins, fractions, seed=seed)
    parts = [[by_text[row.text] for row in part] for part in (split.train, split.calibration, split.test)]
    return AssetSplit(*parts)


def base_card(base: Base, recipe: ReaderRecipe, method: str) -> Card:
    """Return the card of a reader on `base`, still without data and metrics."""
    return Card(
        base=base.name,
        base_sha256=base.sha256,
        base_weights_sha256=base.weights_sha256,
        base_released=base.released,
        method=method,
        max_length=MAX_LENGTH,
        hyper=msgspec.to_builtins(recipe),
        kinds=NEWS_KINDS,
    )


def train_reader(
    datasets: Sequence[AssetDataset],
    split: AssetSplit,
    recipe: ReaderRecipe,
    output: Path,
    *,
    base: str = EMBEDDED,
    quantise: bool = True,
    progress: Progress | None = None,
) -> Card:
    """Fine-tune `base` on `split.train` and write the exported reader to `output`; return its card.

    A training that was interrupted continues from the file `OUTPUT.checkpoint`. Raises ModelError if the base
    can't be loaded.
    """
    torch.manual_seed(recipe.seed)
    loaded = load_base(base)
    model, tokenizer, pad = HeadlineReader(loaded.encoder), loaded.tokenizer, loaded.tokenizer.pad_token_id
    checkpoint = output.with_name(output.name + ".checkpoint")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: tokenise(part, tokenizer, MAX_LENGTH) for name, part in split._asdict().items()}
    fit_reader(model, [ReaderSet(rows["train"])], recipe, checkpoint, pad=pad, progress=progress)
    card = base_card(loaded, recipe, "full")
    card.datasets = tuple(dataset.record for dataset in datasets)
    card.trained_until = latest_of(card.datasets)
    card.notes = {f"rows_{name}": len(part) for name, part in rows.items()}
    counts = Counter(row.kind for row in split.train if row.kind)
    card.notes |= {f"kind_{kind}": counts[kind] for kind in NEWS_KINDS}
    card.notes["asset_labels_without_a_name_in_the_text"] = split.unplaced
    if rows["calibration"]:
        calibrate(card, answers_of(model, rows["calibration"], pad=pad), rows["calibration"])
    card = export_reader(model, tokenizer, card, output, quantise=quantise, reference=reference_texts())
    measure_export(card, output, {"test": split.test})
    measure_reference(card, output, [row.text for row in (*split.calibration, *split.test)])
    checkpoint.unlink(missing_ok=True)
    return card
