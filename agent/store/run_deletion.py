"""Deletion of recorded runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Table, delete, func, select, update

from agent.core.errors import SafetyError, StoreError
from agent.store.commit_mark import read_mark
from agent.store.database import Database
from agent.store.journal import find_archive, find_segments
from agent.store.runs import Run, RunKind, RunStatus
from agent.store.tables import metadata, runs

BATCH: Final = 20_000
"""Sequence numbers per transaction, so that a running agent waits for the store only shortly."""


class DeletedRun(msgspec.Struct, frozen=True):
    """A deleted run: number of rows, and the files that hold its archived journal, which are kept."""

    run: str
    rows: int
    kept_files: tuple[str, ...]


def check_deletable(run: Run, *, unfinished: bool) -> None:
    """Raise SafetyError if the run may be being written or could be continued, unless `unfinished`."""
    if unfinished or run.status in (RunStatus.COMPLETE, RunStatus.FAILED):
        return
    if run.kind is RunKind.LIVE:
        why = "it is a live run that has not ended: an agent writes it, or could continue it"
    elif run.status is RunStatus.RUNNING:
        why = "it is being written, unless its process was killed"
    else:
        return
    raise SafetyError(
        f"run {run.id} is not deleted: {why}",
        hint="--unfinished deletes it, if no process writes it any more",
    )


def delete_run(
    database: Database, run: Run, mark: Path | None = None, progress: Callable[[int], None] | None = None
) -> DeletedRun:
    """Delete a run and its labels in several transactions.

    The run is marked as failed first and its row goes last, so that after an interruption it can be deleted
    again. A commit mark at `mark` that names the run is removed: the next start of an agent would miss the
    run. `progress` receives the number of deleted rows. Raises StoreError.
    """
    archive = find_archive(database, run.id)
    files = [segment.path for segment in find_segments(database, run.id)]
    files += [archive.path] if archive is not None else []
    with database.write() as connection:
        ended = {"status": RunStatus.FAILED, "error": "its deletion was interrupted"}
        connection.execute(update(runs).where(runs.c.id == run.id), ended)
    done = 0
    for table in reversed(metadata.sorted_tables):
        if table is not runs and "run_id" in table.c:
            for rows in _delete_rows(database, table, run.id):
                done += rows
                if progress is not None:
                    progress(rows)
    if mark is not None:
        _remove_mark(mark, run.id)
    with database.write() as connection:
        connection.execute(delete(runs).where(runs.c.id == run.id))
    return DeletedRun(run.id, done + 1, tuple(files))


def _delete_rows(database: Database, table: Table, run_id: str) -> list[int]:
    """Delete a run's rows of one table, the last ones first; return the numbers of rows by transaction."""
    own = table.c.run_id == run_id
    if "seq" not in table.c:
        with database.write() as connection:
            return [connection.execute(delete(table).where(own)).rowcount]
    with database.read() as connection:
        last = connection.scalar(select(func.max(table.c.seq)).where(own)) or 0
    counts = []
    while last > 0:
        with database.write() as connection:
            counts.append(connection.execute(delete(table).where(own, table.c.seq > last - BATCH)).rowcount)
        last -= BATCH
    with database.write() as connection:  # rows that were added meanwhile, or are numbered from 0
        counts.append(connection.execute(delete(table).where(own)).rowcount)
    return counts


def _remove_mark(path: Path, run_id: str) -> None:
    try:
        mark = read_mark(path)
    except StoreError:
        return  # a damaged mark is reported by the next start
    if mark is not None and mark.run == run_id:
        path.unlink(missing_ok=True)
