"""Archives of journals: one parquet file per run, identified by its hash. `verify` reads it like the store.

The file is written, synced and compared with the store row by row, and then the store records it. Pruning
marks the file as the only copy and then deletes the store's rows. If the process is killed at any step, the
next call continues there.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import msgspec
from sqlalchemy import delete, func, insert, select, update

from agent.core.errors import StoreError
from agent.data.columns import content_hash
from agent.store.archive_files import (
    BATCH,
    RowProgress,
    check_archive_file,
    read_archive_file,
    write_archive_file,
)
from agent.store.database import Database
from agent.store.journal import find_archive, find_segments, read_journal_rows
from agent.store.queries import list_runs
from agent.store.runs import JournalArchive, Run, RunKind, RunStatus
from agent.store.tables import archives, journal
from agent.system.clock import Clock


class ArchivableRun(msgspec.Struct, frozen=True):
    """A run whose journal can be archived, its number of stored events, and its archive if any."""

    run: Run
    stored: int
    archive: JournalArchive | None


def archivable_runs(database: Database, before: int, *, unfinished: bool = False) -> list[ArchivableRun]:
    """List live runs with a journal or an archive that ended before `before` (UTC ms), oldest first.

    Only completed runs are listed; with `unfinished`, also those that were interrupted or failed. Runs with
    journal segments are not listed: their last part is short and stays in the store.
    """
    ended = {RunStatus.COMPLETE} | ({RunStatus.INTERRUPTED, RunStatus.FAILED} if unfinished else set())
    counts = select(journal.c.run_id, func.count()).group_by(journal.c.run_id)
    with database.read() as connection:
        stored = {run_id: int(count) for run_id, count in connection.execute(counts)}
    found = []
    for run in reversed(list_runs(database)):
        at = run.finished_at
        if run.kind is RunKind.LIVE and run.status in ended and at is not None and at < before:
            found.append(ArchivableRun(run, stored.get(run.id, 0), find_archive(database, run.id)))
    return [one for one in found if (one.stored or one.archive) and not find_segments(database, one.run.id)]


def archive_journal(
    database: Database, one: ArchivableRun, folder: Path, clock: Clock, progress: RowProgress | None = None
) -> JournalArchive:
    """Copy a run's journal to `folder`/RUN.journal.parquet, compare the two, and record the archive.

    An existing archive is kept. If its file was moved to `folder`, the new path is recorded. Raises
    StoreError if the file can't be written or differs from the store.
    """
    run_id = one.run.id
    path = (folder / f"{run_id}.journal.parquet").absolute()
    if one.archive is not None:
        return _update_path(database, run_id, one.archive, path)
    write_archive_file(path, one.run, read_journal_rows(database, run_id, only_stored=True), progress)
    archive = JournalArchive(str(path), content_hash(path), one.stored, path.stat().st_size, clock.now())
    _compare(database, run_id, archive, progress)
    with database.write() as connection:
        connection.execute(insert(archives).values(run_id=run_id, **msgspec.structs.asdict(archive)))
    return archive


def prune_journal(database: Database, run_id: str, clock: Clock, progress: RowProgress | None = None) -> int:
    """Check the archive again and delete the journal's rows from the store; return their number.

    Raises StoreError if the archive is missing or has changed.
    """
    archive = find_archive(database, run_id)
    if archive is None:
        raise StoreError(f"the journal of run {run_id} has no archive")
    check_archive_file(Path(archive.path), archive.sha256, run_id)
    if archive.pruned_at is None:
        _compare(database, run_id, archive, None)
        with database.write() as connection:
            where = archives.c.run_id == run_id
            connection.execute(update(archives).where(where).values(pruned_at=clock.now()))
    of_run = journal.c.run_id == run_id
    deleted = 0
    while True:
        with database.write() as connection:
            last = connection.scalar(select(func.max(journal.c.seq)).where(of_run))
            if last is None:
                return deleted
            rows = connection.execute(delete(journal).where(of_run, journal.c.seq > last - BATCH)).rowcount
        deleted += rows
        if progress:
            progress(rows)


def _update_path(database: Database, run_id: str, archive: JournalArchive, path: Path) -> JournalArchive:
    """Record `path` as the archive's path if the file is there and no longer at its old path."""
    if Path(archive.path).is_file() or not path.is_file():
        return archive
    found = msgspec.structs.replace(archive, path=str(path))
    check_archive_file(path, found.sha256, run_id)
    with database.write() as connection:
        connection.execute(update(archives).where(archives.c.run_id == run_id).values(path=found.path))
    return found


def _compare(database: Database, run_id: str, archive: JournalArchive, progress: RowProgress | None) -> None:
    pairs = zip_longest(
        read_journal_rows(database, run_id, only_stored=True),
        read_archive_file(Path(archive.path), archive.sha256, run_id),
    )
    seq = 0
    for seq, (stored, archived) in enumerate(pairs, 1):
        if stored != archived or stored.seq != seq:
            raise StoreError(
                f"event {seq} of run {run_id} differs between {archive.path} and the store",
                hint="nothing was pruned; remove the file, and check the run: tapewire verify",
            )
        if progress and seq % BATCH == 0:
            progress(BATCH)
    if seq != archive.events:
        found = f"{seq} events of run {run_id}, not {archive.events}"
        raise StoreError(f"{archive.path} holds {found}; nothing was pruned")
    if progress:
        progress(seq % BATCH)
