"""Anybody's CSV, TSV, JSON, JSONL or parquet, its columns named by option; the suffix says which it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.errors import DataError
from models.labels import canonical
from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.table_columns import column, read_rows


def rows(path: Path, options: Options, date_column: str) -> Iterator[Example]:
    """One example a row, dated where `date_column` is not empty."""
    for where, row in read_rows(path, options.encoding):
        text, label = (column(row, [name], where) for name in (options.text_column, options.label_column))
        ts = to_ms(column(row, [date_column], where), where) if date_column else None
        yield Example("" if text is None else str(text), canonical(str(label), where=where), ts, where)


def to_ms(value: Any, where: str) -> int:
    """UTC ms of an ISO time (no zone means UTC; a bare date means its last millisecond), a datetime, or a number of s or ms."""
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    text = str(value).strip()
    if text.isdigit():
        return int(text) * (1 if len(text) > 11 else 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{where}: date {value!r}", hint="ISO 8601 (2024-05-31, 2024-05-31T12:00:00Z) or UTC ms"
        ) from None
    ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return ms + 86_400_000 - 1 if len(text) == len("2024-05-31") else ms


@register("csv")
def read(path: Path, options: Options) -> Iterator[Example]:
    """By `--text-column`, `--label-column`, `--date-column`."""
    return rows(path, options, options.date_column)


register("jsonl")(read)
register("parquet")(read)
