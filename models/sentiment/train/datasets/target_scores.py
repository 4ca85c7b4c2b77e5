"""FiQA and SemEval-2017 task 5: scores in [-1, 1] for each target of a text, mapped to classes at fixed
cuts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import msgspec

from agent.core.errors import DataError
from models.labels import from_score
from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.table_columns import Row, column, read_rows

_TEXT = ("title", "headline", "spans", "text", "sentence")
_SCORE = ("sentiment", "sentiment score", "sentiment_score", "score")
_TARGET = ("company", "cashtag", "target")


class TargetScore(msgspec.Struct, frozen=True):
    """The score of one text for one target."""

    text: str
    target: str
    score: float
    where: str


class _Info(msgspec.Struct):
    sentiment_score: str | float
    target: str = ""


class _Post(msgspec.Struct):
    sentence: str
    info: list[_Info]


@register("fiqa", published=2018)
def read_fiqa(path: Path, options: Options) -> Iterator[Example]:
    """FiQA 2018 task 1 (posts and headlines): `{id: {sentence, info: [{target, sentiment_score}]}}`, or a
    table.
    """
    return _examples(
        _posts(path, options) if path.suffix.lower() == ".json" else _table(path, options), options
    )


@register("semeval", published=2017)
def read_semeval(path: Path, options: Options) -> Iterator[Example]:
    """Microblogs (subtask 1: `spans`, `cashtag`) and headlines (subtask 2: `title`, `company`).

    The spans of a microblog are joined, because its full text was never published.
    """

    def rows() -> Iterator[TargetScore]:
        for where, row in read_rows(path, options.encoding):
            target = next((str(row[name]) for name in _TARGET if name in row), "")
            yield TargetScore(_text(row, where), target, _score(column(row, _SCORE, where), where), where)

    return _examples(rows(), options)


def _posts(path: Path, options: Options) -> Iterator[TargetScore]:
    try:
        posts = msgspec.json.decode(path.read_bytes().decode(options.encoding), type=dict[str, _Post])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "expected {id: {sentence, info: [{sentiment_score, target}]}}"
        raise DataError(f"{path}: not FiQA task 1: {error}", hint=hint) from None
    for key, post in posts.items():
        where = f"{path}: post {key}"
        for info in post.info:
            yield TargetScore(post.sentence, info.target, _score(info.sentiment_score, where), where)


def _table(path: Path, options: Options) -> Iterator[TargetScore]:
    for where, row in read_rows(path, options.encoding):
        score = _score(column(row, ["sentiment_score", "score"], where), where)
        text = str(column(row, ["sentence", "text"], where))
        yield TargetScore(text, str(row.get("target", "")), score, where)


def _text(row: Row, where: str) -> str:
    value = column(row, _TEXT, where)
    return ". ".join(map(str, value)) if isinstance(value, list) else str(value)


def _score(value: object, where: str) -> float:
    """A number in [-1, 1]. Raises DataError for anything else."""
    try:
        score = float(str(value))
    except ValueError:
        score = math.nan
    if not -1 <= score <= 1:
        raise DataError(f"{where}: sentiment score {value!r}", hint="must be a number in [-1, 1]")
    return score


def _examples(rows: Iterator[TargetScore], options: Options) -> Iterator[Example]:
    """One example for each target (`TARGET: text`), or one for each text, labelled by the mean of its
    targets.
    """
    if options.per_target:
        for row in rows:
            label = from_score(row.score, options.score_cut)
            yield Example(f"{row.target}: {row.text}", label, where=row.where)
        return
    by_text: dict[str, list[TargetScore]] = {}
    for row in rows:
        by_text.setdefault(row.text, []).append(row)
    for text, same in by_text.items():
        score = fmean(row.score for row in same)
        yield Example(text, from_score(score, options.score_cut), where=same[0].where)
