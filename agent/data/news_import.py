"""Any news file as one parquet file with our columns, cleaned, without duplicates, by publication."""

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
from agent.data.parquet_files import write_parquet

SCHEMA: Final = pa.schema(
    [
        ("published_at", pa.timestamp("ms", tz="UTC")),
        ("available_at", pa.timestamp("ms", tz="UTC")),  # null: the file doesn't say when it was first seen
        *((name, pa.string()) for name in ("id", "title", "summary", "publisher", "url", "currencies")),
    ]
)
_BLOCK: Final = 4_096
_NOT_STATED: Final = -1  # a delay that no stated availability can show, for it is never before publication


def import_news(path: Path, output: Path, *, timezone: str | None = None) -> dict[str, object]:
    """Writes the usable headlines of `path` to `output`; counts of rows, news, duplicates, untrusted times, untitled rows, the
    range of publication (UTC ms), and notes for people.

    Raises DataError as `NewsFile`, and where nothing is usable; StoreError where `output` can't be written.
    """
    source = NewsFile(path, feed_delay=_NOT_STATED, timezone=timezone)
    write_parquet(output, SCHEMA, _tables(iter(source), path))
    return asdict(source.stats) | {"notes": source.stats.notes(), "output": str(output)}


def _tables(news: Iterator[News], path: Path) -> Iterator[pa.Table]:
    block = list(islice(news, _BLOCK))
    if not block:
        raise DataError(f"{path} holds no headline with a trusted time and a title")
    while block:
        yield pa.table(
            [
                [item.ts for item in block],
                [item.available_at if item.available_at >= item.ts else None for item in block],
                *(
                    [getattr(item, name) for item in block]
                    for name in ("id", "title", "summary", "publisher", "url")
                ),
                [",".join(item.currencies) for item in block],
            ],
            schema=SCHEMA,
        )
        block = list(islice(news, _BLOCK))
