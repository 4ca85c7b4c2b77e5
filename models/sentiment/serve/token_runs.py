"""Tokenised texts, and the runs of equal length in which they are scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class TokenisedText(NamedTuple):
    """Token ids of one text, and for each asset the positions of the tokens that name it."""

    ids: list[int]
    assets: dict[str, list[int]]
    unknown: float  # share of the tokens that the vocabulary lacks


def tokens_of(spans: Iterable[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the positions of the tokens, at `offsets` of the text, that overlap one of the `spans`."""
    places = tuple(spans)
    return [
        position
        for position, (start, end) in enumerate(offsets)
        if end > start and any(start < stop and end > begin for begin, stop in places)
    ]


def span_weights(run: Sequence[TokenisedText]) -> Floats:
    """Return the weights (texts, assets ≥ 1, tokens) of the tokens that name each asset."""
    most = max(1, *(len(one.assets) for one in run))
    weights = np.zeros((len(run), most, len(run[0].ids)), np.float32)
    for number, one in enumerate(run):
        for row, positions in enumerate(one.assets.values()):
            weights[number, row, positions] = 1.0 / len(positions)
    return weights


def equal_runs(tokens: Sequence[TokenisedText], rows: int) -> Iterator[list[int]]:
    """Yield the row numbers of texts with equally many tokens, at most `rows` of them, longest first."""
    by_length = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row].ids), row))
    for _, equal in groupby(by_length, key=lambda row: len(tokens[row].ids)):
        bucket = list(equal)
        for start in range(0, len(bucket), rows):
            yield bucket[start : start + rows]
