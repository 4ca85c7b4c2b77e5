"""What a data file holds: its kind, symbol, interval, range and gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from agent.core.errors import DataError, TapewireError, UsageError
from agent.core.events import Funding, News
from agent.data.funding import FundingFile
from agent.data.klines import KlineFile
from agent.data.news import NewsFile

_CLOSING_SOURCES: Final = ("yahoo",)
"""Value of `source` in the labels of files of markets that close: missing bars are no gaps."""


class FileFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """A data file. Times are UTC ms: `first` of the first row, `end` after the last one; 0: none.

    - `kind`: `unknown` if it is neither klines nor headlines nor funding rates; `note` then states why not.
    - `symbol`, `interval` (ms), `gaps` and the bars `missing` in them: of klines.
    """

    kind: Literal["klines", "news", "funding", "unknown"]
    rows: int = 0
    symbol: str = ""
    interval: int = 0
    first: int = 0
    end: int = 0
    gaps: int = 0
    missing: int = 0
    note: str = ""


def read_facts(path: Path, timezone: str | None = None) -> FileFacts:
    """Read a file and describe it; `timezone` is that of times that state none."""
    errors: list[str] = []
    readers: tuple[Callable[[Path, str | None], FileFacts], ...] = (_klines, _news, _funding)
    for read in readers:
        try:
            return read(path, timezone)
        except TapewireError as error:
            errors.append(str(error).replace(str(path), path.name))
        except (OSError, pa.ArrowException) as error:
            errors.append(f"{path.name} can't be read: {type(error).__name__}")
    return FileFacts("unknown", note=errors[0])


def _klines(path: Path, timezone: str | None) -> FileFacts:
    file = KlineFile(path, around_the_clock=_source_of(path) not in _CLOSING_SOURCES, timezone=timezone)
    file.describe()
    found = file.stats
    if not found.rows:
        raise DataError(f"{path} has no bars")
    return FileFacts(
        "klines",
        rows=found.rows,
        symbol=file.symbol,
        interval=file.interval,
        first=found.first,
        end=found.end,
        gaps=found.gaps,
        missing=found.missing,
        note="; ".join(file.notes),
    )


def _news(path: Path, timezone: str | None) -> FileFacts:
    return _span("news", path, NewsFile(path, timezone=timezone), lambda one: one.ts)


def _funding(path: Path, timezone: str | None) -> FileFacts:
    try:
        return _span("funding", path, FundingFile(path, timezone=timezone), lambda one: one.ts)
    except UsageError as error:  # no symbol
        raise DataError(error.message) from None


def _span(
    kind: Literal["news", "funding"],
    path: Path,
    events: Iterable[News] | Iterable[Funding],
    time_of: Callable[[News | Funding], int],
) -> FileFacts:
    rows, first, last = 0, 0, 0
    for event in events:
        time = time_of(event)
        first, last = (min(first, time), max(last, time)) if rows else (time, time)
        rows += 1
    if not rows:
        raise DataError(f"{path} has no {kind}")
    return FileFacts(kind, rows=rows, first=first, end=last + 1)


def _source_of(path: Path) -> str:
    """Return the source that `tapewire download` wrote into a Parquet file; "" for other files."""
    if path.suffix not in (".parquet", ".pq"):
        return ""
    metadata = pq.read_schema(path).metadata or {}
    return bytes(metadata.get(b"source", b"")).decode(errors="replace")
