"""FiQA 2018 task 1 (posts and headlines): `{id: {sentence, info: [{target, sentiment_score}]}}`, or a table of these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent.core.errors import DataError
from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.scored import Scored, examples, to_score
from models.sentiment.train.datasets.table_columns import column, read_rows


class _Info(msgspec.Struct):
    sentiment_score: str | float
    target: str = ""


class _Post(msgspec.Struct):
    sentence: str
    info: list[_Info]


@register("fiqa", published=2018)
def read(path: Path, options: Options) -> Iterator[Example]:
    """One example a post, or a target of a post."""
    return examples(
        _posts(path, options) if path.suffix.lower() == ".json" else _table(path, options), options
    )


def _posts(path: Path, options: Options) -> Iterator[Scored]:
    try:
        posts = msgspec.json.decode(path.read_bytes().decode(options.encoding), type=dict[str, _Post])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not FiQA task 1: {error}",
            hint="expected {id: {sentence, info: [{sentiment_score, target}]}}",
        ) from None
    for key, post in posts.items():
        where = f"{path}: post {key}"
        for info in post.info:
            yield Scored(post.sentence, info.target, to_score(info.sentiment_score, where), where)


def _table(path: Path, options: Options) -> Iterator[Scored]:
    for where, row in read_rows(path, options.encoding):
        score = to_score(column(row, ["sentiment_score", "score"], where), where)
        yield Scored(str(column(row, ["sentence", "text"], where)), str(row.get("target", "")), score, where)
