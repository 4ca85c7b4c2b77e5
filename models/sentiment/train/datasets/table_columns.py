"""Rows of a CSV, TSV, JSON, JSONL or parquet file as dictionaries, with their place in the file for
errors.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from agent.core.errors import DataError, did_you_mean

Row = dict[str, Any]


def read_rows(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, Row]]:
    """Yield (place, row) of each row. The suffix selects the format; a file with any other suffix is read as
    CSV.

    Raises DataError for a damaged file, UnicodeDecodeError for bytes that are invalid in `encoding`.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    text = path.read_bytes().decode("utf-8-sig" if is_utf8 else encoding)
    if "\0" in text:
        hint = "perhaps UTF-16 without its mark: pass --encoding utf-16-le"
        raise DataError(f"{path}: holds NUL characters", hint=hint)
    if suffix == ".json":
        for number, row in enumerate(_json(path, text, list[dict[str, Any]]), 1):
            yield f"{path}: entry {number}", row
    elif suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{path}:{number}", _json(path, line, dict[str, Any], number)
    else:
        yield from _csv(path, text, "\t" if suffix == ".tsv" else ",")


def column(row: Row, names: Iterable[str], where: str) -> Any:
    """Return the value of the first of `names` that the row has.

    Raises DataError, which lists the row's columns and suggests the closest one, if it has none of them.
    """
    wanted = list(names)
    for name in wanted:
        if name in row:
            return row[name]
    found = ", ".join(map(repr, row))
    there = f"the file has {found}: name yours with --text-column, --label-column, --date-column"
    raise DataError(f"{where}: no column {wanted[0]!r}", hint=did_you_mean(wanted[0], row, there))


def to_ms(value: Any, where: str) -> int:
    """Convert a datetime, a number of s or ms, or an ISO time to UTC ms.

    A time without a zone is UTC; a bare date stands for its last millisecond.
    """
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    text = str(value).strip()
    if text.isdigit():
        return int(text) * (1 if len(text) > 11 else 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        hint = "ISO 8601 (2024-05-31, 2024-05-31T12:00:00Z) or UTC ms"
        raise DataError(f"{where}: date {value!r}", hint=hint) from None
    ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return ms + 86_400_000 - 1 if len(text) == len("2024-05-31") else ms


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path}: not parquet: {error}", hint="write it again") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def _json(path: Path, text: str, shape: Any, line: int | None = None) -> Any:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = f"{path}:{line}" if line else path
        raise DataError(
            f"{place}: {error}", hint="JSON: a list of objects; JSONL: one object a line"
        ) from None


def _csv(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if None in row or None in row.values():
                what = f"{'more' if None in row else 'fewer'} fields than the header names"
                hint = "quote texts that hold a comma or a line break"
                raise DataError(f"{path}:{reader.line_num}: {what}", hint=hint)
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}", hint="is it really CSV?") from None
