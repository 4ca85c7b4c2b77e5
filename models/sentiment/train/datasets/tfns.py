"""Twitter Financial News Sentiment: columns `text`, `label` with 0 bearish, 1 bullish, 2 neutral."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.core.errors import DataError
from models.labels import TFNS_NAMES, canonical
from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.table_columns import column, read_rows


@register("tfns", published=2022)
def read(path: Path, options: Options) -> Iterator[Example]:
    """One example a tweet."""
    for where, row in read_rows(path, options.encoding):
        code = str(column(row, ["label"], where)).strip()
        if code.lstrip("-").isdigit() and code not in TFNS_NAMES:
            raise DataError(
                f"{where}: unknown label {code!r}", hint="TFNS knows 0 bearish, 1 bullish, 2 neutral"
            )
        yield Example(
            str(column(row, ["text"], where)), canonical(TFNS_NAMES.get(code, code), where=where), where=where
        )
