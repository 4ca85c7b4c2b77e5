"""Files of archived journals: parquet, named by their SHA-256 in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from agent.core.errors import DataError, StoreError
from agent.data.columns import content_hash
from agent.store.private_files import PRIVATE_FILE, make_private_folder
from agent.store.runs import JournalRow, Run
from agent.system.atomic import write_parquet

BATCH: Final = 20_000
"""Rows per row group, and rows per delete transaction: it must be short, since the agent may be writing."""

FORMAT: Final = "tapewire.journal.1"
_SCHEMA: Final = pa.schema(
    [
        ("seq", pa.int64()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("available_at", pa.int64()),
        ("payload", pa.binary()),
    ]
)

RowProgress = Callable[[int], None]
"""Receives the number of additional rows that were processed."""


def write_archive_file(
    path: Path, run: Run, rows: Iterable[JournalRow], progress: RowProgress | None = None
) -> None:
    """Write journal rows of `run` to a parquet file, which appears only when it is complete.

    Raises StoreError.
    """
    details = {"format": FORMAT, "run": msgspec.json.encode(run).decode()}
    with suppress(OSError):  # reported by what writes the file
        make_private_folder(path.parent)
    write_parquet(path, _SCHEMA.with_metadata(details), _tables(rows, progress), mode=PRIVATE_FILE)


def read_archive_file(path: Path, sha256: str, run_id: str, from_seq: int = 1) -> Iterator[JournalRow]:
    """Stream the rows of a file that `write_archive_file` wrote, from number `from_seq` on.

    Raises StoreError if the file is missing or has changed.
    """
    check_archive_file(path, sha256, run_id)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH // 10, columns=list(JournalRow._fields)):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                yield from (JournalRow(*row) for row in rows if row[0] >= from_seq)
    except (pa.ArrowException, OSError) as error:
        message = f"{path}: the archive of run {run_id} can't be read: {error}"
        raise StoreError(message, hint="restore it") from None


def check_archive_file(path: Path, sha256: str, run_id: str) -> None:
    """Raise StoreError if an archive file is missing or has changed."""
    if not path.is_file():
        raise StoreError(
            f"{path}, the archive of run {run_id}, does not exist",
            hint="put it back; if it was moved: tapewire db archive --to FOLDER",
        )
    try:
        found = content_hash(path)
    except DataError as error:
        raise StoreError(error.message) from None
    if found != sha256:
        hint = f"it was SHA-256 {sha256}; restore it"
        raise StoreError(f"{path}, the archive of run {run_id}, has changed", hint=hint)


def _tables(rows: Iterable[JournalRow], progress: RowProgress | None) -> Iterator[pa.Table]:
    for batch in _batches(rows):
        if progress:
            progress(len(batch))
        columns = zip(*batch, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        yield pa.table(arrays, schema=_SCHEMA)


def _batches(rows: Iterable[JournalRow]) -> Iterator[list[JournalRow]]:
    batch: list[JournalRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
