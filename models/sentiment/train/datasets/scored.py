"""What FiQA and SemEval-2017 task 5 share: scores in [-1, 1] a target, turned into classes at stated cut-offs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

import msgspec

from agent.core.errors import DataError
from models.labels import from_score
from models.sentiment.train.datasets import Example, Options


class Scored(msgspec.Struct, frozen=True):
    """One text with its score for one target."""

    text: str
    target: str
    score: float
    where: str


def to_score(value: object, where: str) -> float:
    """A number in [-1, 1], or DataError."""
    try:
        score = float(str(value))
    except ValueError:
        score = math.nan
    if not -1 <= score <= 1:
        raise DataError(f"{where}: sentiment score {value!r}", hint="must be a number in [-1, 1]")
    return score


def examples(rows: Iterator[Scored], options: Options) -> Iterator[Example]:
    """One example a target (`TARGET: text`), or one a text by the mean over its targets."""
    if options.per_target:
        for row in rows:
            yield Example(
                f"{row.target}: {row.text}", from_score(row.score, options.score_cut), where=row.where
            )
        return
    by_text: dict[str, list[Scored]] = {}
    for row in rows:
        by_text.setdefault(row.text, []).append(row)
    for text, same in by_text.items():
        score = fmean(row.score for row in same)
        yield Example(text, from_score(score, options.score_cut), where=same[0].where)
