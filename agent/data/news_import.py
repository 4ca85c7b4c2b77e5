"""Import of a news file: a parquet file with canonical columns, cleaned, without duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa

from agent.core.errors import DataError
from agent.core.events import News
from agent.data.news import NewsFile
from agent.system.atomic import write_parquet

SCHEMA: Final = pa.schema(
    [
        ("published_at", pa.timestamp("ms", tz="UTC")),
        ("available_at", pa.timestamp("ms", tz="UTC")),  # null: the source doesn't state it
        *((name, pa.string()) for name in ("id", "title", "summary", "publisher", "url", "currencies")),
    ]
)
_BLOCK: Final = 4_096
_NOT_STATED: Final = (
    -1
)  # feed delay that marks a missing availability: stated ones are never before publication


def import_news(path: Path, output: Path, *, timezone: str | None = None) -> dict[str, object]:
    """Write the usable headlines of `path` to `output`; return the `NewsStats`, with notes, as a dictionary.

    Raises DataError as `NewsFile`, and if no headline is usable; StoreError if `output` can't be written.
    """
    source = NewsFile(path, feed_delay=_NOT_STATED, timezone=timezone)
    write_parquet(output, SCHEMA, _tables(iter(source), path))
    return asdict(source.stats) | {"notes": source.stats.notes(), "output": str(output)}


def _tables(news: Iterator[News], path: Path) -> Iterator[pa.Table]:
    block = list(islice(news, _BLOCK))
    if not block:
        raise DataError(f"{path} holds no headline with a trusted time and a title")
    while block:
        texts = (
            [getattr(item, name) for item in block] for name in ("id", "title", "summary", "publisher", "url")
        )
        columns = [
            [item.ts for item in block],
            [item.available_at if item.available_at >= item.ts else None for item in block],
            *texts,
            [",".join(item.currencies) for item in block],
        ]
        yield pa.table(columns, schema=SCHEMA)
        block = list(islice(news, _BLOCK))
