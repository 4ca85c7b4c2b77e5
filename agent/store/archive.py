"""Journals moved out of the store: one parquet file a run, named in the store by its hash, from which `verify` works as before.

First the file is made, forced to disk and read back row by row against the store; then the store names it; then, if that is
wanted, the store says that the file is all there is, and lets go of the rows. Killed in between, the next call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import delete, func, insert, select, update

from agent.core.errors import DataError, StoreError
from agent.data.columns import content_hash
from agent.data.parquet_files import write_parquet
from agent.store.database import Database
from agent.store.files import PRIVATE_FILE, make_private_folder
from agent.store.journal import JournalRow, find_archive, find_segments, read_rows
from agent.store.queries import list_runs
from agent.store.runs import Archive, Run, RunKind, RunStatus
from agent.store.tables import archives, journal
from agent.system.clock import Clock

BATCH: Final = 20_000
"""Rows of a row group, and of a transaction that deletes: short, since the agent may be writing."""

FORMAT: Final = "tapewire.journal.1"
_SCHEMA: Final = pa.schema(
    [
        ("seq", pa.int64()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("available_at", pa.int64()),
        ("payload", pa.binary()),
    ]
)

Progress = Callable[[int], None]
"""Hears of how many more rows something was done with."""


class Candidate(msgspec.Struct, frozen=True):
    """A run whose journal may go: how many of its events are in the store, and its archive, if there is one already."""

    run: Run
    stored: int
    archive: Archive | None


def candidates(database: Database, before: int, *, unfinished: bool = False) -> list[Candidate]:
    """Live runs that ended before `before` (UTC ms) and whose journal is in the store or in an archive, oldest first.

    Of those that are not complete only the ones that ended orderly or failed, and only with `unfinished`. Not of those that were cut
    into segments: their last part, which is short, stays in the store.
    """
    ended = {RunStatus.COMPLETE} | ({RunStatus.INTERRUPTED, RunStatus.FAILED} if unfinished else set())
    counts = select(journal.c.run_id, func.count()).group_by(journal.c.run_id)
    with database.read() as connection:
        stored = {run_id: int(count) for run_id, count in connection.execute(counts)}
    found = []
    for run in reversed(list_runs(database)):
        at = run.finished_at
        if run.kind is RunKind.LIVE and run.status in ended and at is not None and at < before:
            found.append(Candidate(run, stored.get(run.id, 0), find_archive(database, run.id)))
    return [one for one in found if (one.stored or one.archive) and not find_segments(database, one.run.id)]


def archive_journal(
    database: Database, one: Candidate, folder: Path, clock: Clock, progress: Progress | None = None
) -> Archive:
    """Copy the journal to `folder`/RUN.journal.parquet, compare the two, and let the store know; one that is there stays.

    Raises StoreError where the file can't be written, or does not hold what the store does.
    """
    run_id = one.run.id
    path = (folder / f"{run_id}.journal.parquet").absolute()
    if one.archive is not None:
        return _moved(database, run_id, one.archive, path)
    write_rows(path, one.run, read_rows(database, run_id, stored=True), progress)
    archive = Archive(str(path), content_hash(path), one.stored, path.stat().st_size, clock.now())
    _compare(database, run_id, archive, progress)
    with database.write() as connection:
        connection.execute(insert(archives).values(run_id=run_id, **msgspec.structs.asdict(archive)))
    return archive


def prune(database: Database, run_id: str, clock: Clock, progress: Progress | None = None) -> int:
    """Take an archived journal out of the store, after one more look at the file; returns how many rows went.

    Raises StoreError where the archive isn't what it was.
    """
    archive = find_archive(database, run_id)
    if archive is None:
        raise StoreError(f"the journal of run {run_id} is in no archive")
    check_file(Path(archive.path), archive.sha256, run_id)
    if archive.pruned_at is None:
        _compare(database, run_id, archive, None)
        with database.write() as connection:
            connection.execute(
                update(archives).where(archives.c.run_id == run_id).values(pruned_at=clock.now())
            )
    gone = 0
    while True:
        with database.write() as connection:
            last = connection.scalar(select(func.max(journal.c.seq)).where(journal.c.run_id == run_id))
            if last is None:
                return gone
            rows = connection.execute(
                delete(journal).where(journal.c.run_id == run_id, journal.c.seq > last - BATCH)
            ).rowcount
        gone += rows
        if progress:
            progress(rows)


def read_archive(archive: Archive, run_id: str, from_seq: int = 1) -> Iterator[JournalRow]:
    """The rows of the file from number `from_seq` on, streamed. Raises StoreError where it is gone or isn't what it was."""
    yield from read_file(Path(archive.path), archive.sha256, run_id, from_seq)


def write_rows(path: Path, run: Run, rows: Iterable[JournalRow], progress: Progress | None = None) -> None:
    """Write journal rows of `run` to a parquet file that is whole or not there. Raises StoreError."""
    details = {"format": FORMAT, "run": msgspec.json.encode(run).decode()}
    with suppress(OSError):  # reported by what writes the file
        make_private_folder(path.parent)
    write_parquet(path, _SCHEMA.with_metadata(details), _tables(rows, progress), mode=PRIVATE_FILE)


def read_file(path: Path, sha256: str, run_id: str, from_seq: int = 1) -> Iterator[JournalRow]:
    """The rows of a parquet file of `write_rows`, from number `from_seq` on. Raises StoreError if it isn't what it was."""
    check_file(path, sha256, run_id)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH // 10, columns=list(JournalRow._fields)):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                yield from (JournalRow(*row) for row in rows if row[0] >= from_seq)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{path}: the archive of run {run_id} can't be read: {error}", hint="restore it"
        ) from None


def check_file(path: Path, sha256: str, run_id: str) -> None:
    """Raises StoreError if an archive is gone or has changed."""
    if not path.is_file():
        raise StoreError(
            f"{path}, the archive of run {run_id}, is not there",
            hint="put it back; or, where it was moved: tapewire db archive --to FOLDER",
        )
    try:
        found = content_hash(path)
    except DataError as error:
        raise StoreError(error.message) from None
    if found != sha256:
        raise StoreError(
            f"{path}, the archive of run {run_id}, has changed", hint=f"it was SHA-256 {sha256}; restore it"
        )


def _moved(database: Database, run_id: str, archive: Archive, path: Path) -> Archive:
    """The archive, found at `path` where it isn't at its old place any more."""
    if Path(archive.path).is_file() or not path.is_file():
        return archive
    found = msgspec.structs.replace(archive, path=str(path))
    check_file(path, found.sha256, run_id)
    with database.write() as connection:
        connection.execute(update(archives).where(archives.c.run_id == run_id).values(path=found.path))
    return found


def _compare(database: Database, run_id: str, archive: Archive, progress: Progress | None) -> None:
    pairs = zip_longest(read_rows(database, run_id, stored=True), read_archive(archive, run_id))
    seq = 0
    for seq, (stored, archived) in enumerate(pairs, 1):
        if stored != archived or stored.seq != seq:
            raise StoreError(
                f"{archive.path} does not hold event {seq} of run {run_id} as the store does",
                hint="nothing was pruned; remove the file, and look after the store: tapewire verify says more",
            )
        if progress and seq % BATCH == 0:
            progress(BATCH)
    if seq != archive.events:
        raise StoreError(
            f"{archive.path} holds {seq} events of run {run_id}, not {archive.events}; nothing was pruned"
        )
    if progress:
        progress(seq % BATCH)


def _tables(rows: Iterable[JournalRow], progress: Progress | None) -> Iterator[pa.Table]:
    waiting: list[JournalRow] = []

    def table() -> pa.Table:
        if progress:
            progress(len(waiting))
        columns = zip(*waiting, strict=True)
        return pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)],
            schema=_SCHEMA,
        )

    for row in rows:
        waiting.append(row)
        if len(waiting) == BATCH:
            yield table()
            waiting.clear()
    if waiting:
        yield table()
