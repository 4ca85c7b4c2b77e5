"""SemEval-2017 task 5: microblogs (subtask 1: `spans`, `cashtag`) and headlines (subtask 2: `title`, `company`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.scored import Scored, examples, to_score
from models.sentiment.train.datasets.table_columns import Row, column, read_rows

_TEXT = ("title", "headline", "spans", "text", "sentence")
_SCORE = ("sentiment", "sentiment score", "sentiment_score", "score")
_TARGET = ("company", "cashtag", "target")


@register("semeval", published=2017)
def read(path: Path, options: Options) -> Iterator[Example]:
    """One example a text, or a target of a text. The spans of a microblog are joined: its full text was never published."""

    def rows() -> Iterator[Scored]:
        for where, row in read_rows(path, options.encoding):
            target = next((str(row[name]) for name in _TARGET if name in row), "")
            yield Scored(_text(row, where), target, to_score(column(row, _SCORE, where), where), where)

    return examples(rows(), options)


def _text(row: Row, where: str) -> str:
    value = column(row, _TEXT, where)
    return ". ".join(map(str, value)) if isinstance(value, list) else str(value)
