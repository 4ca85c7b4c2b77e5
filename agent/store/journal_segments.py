"""Journal segments: finished parts of a continuing run's journal are moved to files.

A segment ends at a boundary: an event whose snapshot is kept. To move a segment, its rows are written to a
file, which is synced and compared with the store row by row. The store then records the file. The segment's
events are replayed and the decisions compared. Finally the store marks the segment as pruned and deletes the
rows. If the process ends at any step, the next call continues there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import delete, func, insert, select, update

from agent.core.errors import StoreError
from agent.data.columns import content_hash
from agent.store.archive_files import RowProgress, check_archive_file, read_archive_file, write_archive_file
from agent.store.database import Database
from agent.store.journal import find_segments, read_journal_rows
from agent.store.runs import JournalSegment, Run
from agent.store.state_snapshots import SnapshotInfo, list_snapshots
from agent.store.tables import journal, segments
from agent.system.clock import Clock

_BATCH: Final = 2_000  # rows per delete transaction, during which the agent has to wait
_PAUSE: Final = 0.02  # seconds between two of these transactions

VerifySegment = Callable[[Run, SnapshotInfo], None]
"""Replay the segment that ends at the given boundary; raise StoreError if its decisions differ."""


def boundaries(database: Database, run_id: str) -> list[SnapshotInfo]:
    """List the snapshots at which segments end, oldest first."""
    return [info for info in reversed(list_snapshots(database, run_id)) if info.boundary]


def roll_over(
    database: Database,
    run: Run,
    folder: Path,
    clock: Clock,
    verify: VerifySegment,
    progress: RowProgress | None = None,
) -> list[JournalSegment]:
    """Move the finished segments of `run` to `folder`; return those whose rows were deleted by this call.

    Raises StoreError if a file can't be written or differs from the store, or if a replay decides
    differently. The rows of that segment stay in the store.
    """
    moved = []
    for boundary in boundaries(database, run.id):
        known = {segment.last: segment for segment in find_segments(database, run.id)}
        segment = known.get(boundary.seq)
        if segment is None:
            first = max((last for last in known if last < boundary.seq), default=0) + 1
            segment = _archive(database, run, first, boundary.seq, folder, clock, progress)
        if segment.pruned_at is None:
            check_archive_file(Path(segment.path), segment.sha256, run.id)
            _compare(database, run.id, segment)
            verify(run, boundary)
            segment = msgspec.structs.replace(segment, pruned_at=clock.now())
            where = (segments.c.run_id == run.id, segments.c.last == segment.last)
            with database.write() as connection:
                connection.execute(update(segments).where(*where).values(pruned_at=segment.pruned_at))
        if _prune(database, run.id, segment):
            moved.append(segment)
    return moved


def _archive(
    database: Database,
    run: Run,
    first: int,
    last: int,
    folder: Path,
    clock: Clock,
    progress: RowProgress | None,
) -> JournalSegment:
    path = (folder / f"{run.id}.{first:010}-{last:010}.journal.parquet").absolute()
    stored = read_journal_rows(database, run.id, first, only_stored=True)
    write_archive_file(path, run, takewhile(lambda row: row.seq <= last, stored), progress)
    segment = JournalSegment(last, first, str(path), content_hash(path), path.stat().st_size, clock.now())
    _compare(database, run.id, segment)
    with database.write() as connection:
        connection.execute(insert(segments).values(run_id=run.id, **msgspec.structs.asdict(segment)))
    return segment


def _compare(database: Database, run_id: str, segment: JournalSegment) -> None:
    rows = read_journal_rows(database, run_id, segment.first, only_stored=True)
    stored = takewhile(lambda row: row.seq <= segment.last, rows)
    expected = segment.first
    for one, other in zip_longest(stored, read_archive_file(Path(segment.path), segment.sha256, run_id)):
        if one is None or one != other or one.seq != expected:
            raise StoreError(
                f"event {expected} of run {run_id} differs between {segment.path} and the store",
                hint="nothing was pruned; remove the file, and check the run: tapewire verify",
            )
        expected += 1
    if expected != segment.last + 1:
        raise StoreError(f"the store lacks event {expected} of run {run_id}", hint="restore a backup")


def _prune(database: Database, run_id: str, segment: JournalSegment) -> int:
    """Delete the segment's rows in short transactions, from the last one backwards; return their number."""
    where = (journal.c.run_id == run_id, journal.c.seq >= segment.first, journal.c.seq <= segment.last)
    deleted = 0
    while True:
        with database.write() as connection:
            last = connection.scalar(select(func.max(journal.c.seq)).where(*where))
            if last is None:
                return deleted
            batch = delete(journal).where(*where, journal.c.seq > last - _BATCH)
            deleted += connection.execute(batch).rowcount
        time.sleep(_PAUSE)
