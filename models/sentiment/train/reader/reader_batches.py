"""Tokenised headlines, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent.core.news_kinds import NEWS_KINDS
from models.labels import LABELS
from models.sentiment.serve.token_runs import tokens_of
from models.sentiment.train.datasets.asset_labels import AssetExample

UNLABELLED: Final = -1
"""Number of a class that isn't known; the loss leaves it out."""

_POOL: Final = 32
"""Batches whose texts are sorted by length together."""


class TokenisedHeadline(NamedTuple):
    """A headline as the network reads it. `assets` are positions of the tokens that name each target."""

    ids: list[int]
    label: int
    kind: int
    assets: list[list[int]]
    asset_labels: list[int]


class ReaderBatch(NamedTuple):
    """Tensors of a batch."""

    input_ids: Tensor  # (texts, tokens)
    attention_mask: Tensor  # (texts, tokens)
    spans: Tensor  # (texts, assets, tokens)
    labels: Tensor  # (texts,)
    kinds: Tensor  # (texts,)
    asset_labels: Tensor  # (texts, assets)
    named: Tensor  # (texts, assets): True where a row of `spans` is an asset


def tokenise(
    examples: Sequence[AssetExample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[TokenisedHeadline]:
    """Tokenise headlines. A target that no token names, or only beyond `max_length`, is left out."""
    if not examples:
        return []
    found = tokenizer(
        [example.text for example in examples],
        truncation=True,
        max_length=max_length,
        return_offsets_mapping=True,
    )
    rows = []
    for example, ids, offsets in zip(examples, found["input_ids"], found["offset_mapping"], strict=True):
        named = [(tokens_of(target.spans, offsets), _number(target.label)) for target in example.targets]
        rows.append(
            TokenisedHeadline(
                ids,
                _number(example.label),
                NEWS_KINDS.index(example.kind) if example.kind else UNLABELLED,
                [positions for positions, _ in named if positions],
                [label for positions, label in named if positions],
            )
        )
    return rows


def _number(label: str | None) -> int:
    return LABELS.index(label) if label else UNLABELLED


def to_batch(rows: Sequence[TokenisedHeadline], pad: int) -> ReaderBatch:
    """Return the tensors of `rows`, padded to the longest text and the most assets (at least one row)."""
    tokens, assets = max(len(row.ids) for row in rows), max(1, *(len(row.assets) for row in rows))
    ids = torch.full((len(rows), tokens), pad)
    mask = torch.zeros((len(rows), tokens), dtype=torch.long)
    spans = torch.zeros((len(rows), assets, tokens))
    asset_labels = torch.full((len(rows), assets), UNLABELLED)
    named = torch.zeros((len(rows), assets), dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = 1
        for position, (places, label) in enumerate(zip(row.assets, row.asset_labels, strict=True)):
            spans[number, position, places] = 1.0 / len(places)
            asset_labels[number, position] = label
            named[number, position] = True
    labels, kinds = torch.tensor([row.label for row in rows]), torch.tensor([row.kind for row in rows])
    return ReaderBatch(ids, mask, spans, labels, kinds, asset_labels, named)


def shuffled_batches(
    lengths: Sequence[int], size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of batches of similar lengths, in random order."""
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * _POOL):
        part = np.array(sorted(order[start : start + size * _POOL], key=lambda row: lengths[row]))
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    for number in rng.permutation(len(batches)):
        yield batches[number]
