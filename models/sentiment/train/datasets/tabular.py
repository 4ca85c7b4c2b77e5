"""Tables with a text and a label column: any CSV, TSV, JSON, JSONL or parquet file, TFNS, CryptoLin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.core.errors import DataError
from models.labels import TFNS_NAMES, canonical
from models.sentiment.train.datasets import Example, Options, register
from models.sentiment.train.datasets.table_columns import column, read_rows, to_ms


@register("tfns", published=2022)
def read_tfns(path: Path, options: Options) -> Iterator[Example]:
    """Twitter Financial News Sentiment: columns `text`, `label` with 0 bearish, 1 bullish, 2 neutral."""
    for where, row in read_rows(path, options.encoding):
        code = str(column(row, ["label"], where)).strip()
        if code.lstrip("-").isdigit() and code not in TFNS_NAMES:
            raise DataError(
                f"{where}: unknown label {code!r}", hint="TFNS knows 0 bearish, 1 bullish, 2 neutral"
            )
        label = canonical(TFNS_NAMES.get(code, code), where=where)
        yield Example(str(column(row, ["text"], where)), label, where=where)


@register("csv")
def read_table(path: Path, options: Options) -> Iterator[Example]:
    """Columns as named by `--text-column`, `--label-column` and `--date-column`."""
    return _rows(path, options, options.date_column)


register("jsonl")(read_table)
register("parquet")(read_table)


@register("cryptolin", published=2021)
def read_cryptolin(path: Path, options: Options) -> Iterator[Example]:
    """CryptoLin: crypto headlines labelled by three people, with columns `date`, `text`, `label`."""
    return _rows(path, options, options.date_column or "date")


def _rows(path: Path, options: Options, date_column: str) -> Iterator[Example]:
    """One example for each row, dated if `date_column` is not empty."""
    for where, row in read_rows(path, options.encoding):
        text, label = (column(row, [name], where) for name in (options.text_column, options.label_column))
        ts = to_ms(column(row, [date_column], where), where) if date_column else None
        yield Example("" if text is None else str(text), canonical(str(label), where=where), ts, where)
