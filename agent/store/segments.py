"""The journal of a continuing run, cut into segments: a finished one is moved to a file, so the store stays small.

A segment ends at a boundary, an event after which a snapshot was taken that is kept. It is moved in this order: the file is written,
forced to disk and read back row by row against the store; the store names it; its decisions are decided again and compared; only then
the store marks it as pruned and deletes the rows. If the process dies in between, the next call continues.
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
from agent.store.archive import Progress, check_file, read_file, write_rows
from agent.store.database import Database
from agent.store.journal import find_segments, read_rows
from agent.store.runs import Run, Segment
from agent.store.snapshots import SnapshotInfo, list_snapshots
from agent.store.tables import journal, segments
from agent.system.clock import Clock

_BATCH: Final = 2_000  # rows per delete transaction: the agent waits for it
_REST: Final = 0.02  # seconds between two of them

Verify = Callable[[Run, SnapshotInfo], None]
"""Decides a segment again, from the boundary before it; raises StoreError if it is not what is recorded."""


def boundaries(database: Database, run_id: str) -> list[SnapshotInfo]:
    """The snapshots at which segments end, oldest first."""
    return [info for info in reversed(list_snapshots(database, run_id)) if info.boundary]


def roll_over(
    database: Database, run: Run, folder: Path, clock: Clock, verify: Verify, progress: Progress | None = None
) -> list[Segment]:
    """Move the finished segments of `run` to `folder`; returns those of which rows were moved now.

    Raises StoreError if a file can't be written, isn't what the store has, or its decisions come out otherwise: then its rows stay.
    """
    moved = []
    for boundary in boundaries(database, run.id):
        known = {segment.last: segment for segment in find_segments(database, run.id)}
        segment = known.get(boundary.seq)
        if segment is None:
            first = max((last for last in known if last < boundary.seq), default=0) + 1
            segment = _archive(database, run, first, boundary.seq, folder, clock, progress)
        if segment.pruned_at is None:
            check_file(Path(segment.path), segment.sha256, run.id)
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
    database: Database, run: Run, first: int, last: int, folder: Path, clock: Clock, progress: Progress | None
) -> Segment:
    path = (folder / f"{run.id}.{first:010}-{last:010}.journal.parquet").absolute()
    rows = takewhile(lambda row: row.seq <= last, read_rows(database, run.id, first, stored=True))
    write_rows(path, run, rows, progress)
    segment = Segment(last, first, str(path), content_hash(path), path.stat().st_size, clock.now())
    _compare(database, run.id, segment)
    with database.write() as connection:
        connection.execute(insert(segments).values(run_id=run.id, **msgspec.structs.asdict(segment)))
    return segment


def _compare(database: Database, run_id: str, segment: Segment) -> None:
    stored = takewhile(
        lambda row: row.seq <= segment.last, read_rows(database, run_id, segment.first, stored=True)
    )
    expected = segment.first
    for one, other in zip_longest(stored, read_file(Path(segment.path), segment.sha256, run_id)):
        if one is None or one != other or one.seq != expected:
            raise StoreError(
                f"{segment.path} does not hold event {expected} of run {run_id} as the store does",
                hint="nothing was pruned; remove the file, and look after the store: tapewire verify says more",
            )
        expected += 1
    if expected != segment.last + 1:
        raise StoreError(f"the store lacks event {expected} of run {run_id}", hint="restore a backup")


def _prune(database: Database, run_id: str, segment: Segment) -> int:
    """Delete the segment's rows, from the last one backwards, in short transactions; return their number."""
    where = (journal.c.run_id == run_id, journal.c.seq >= segment.first, journal.c.seq <= segment.last)
    gone = 0
    while True:
        with database.write() as connection:
            last = connection.scalar(select(func.max(journal.c.seq)).where(*where))
            if last is None:
                return gone
            gone += connection.execute(delete(journal).where(*where, journal.c.seq > last - _BATCH)).rowcount
        time.sleep(_REST)
