"""Integrity of a store: detect damaged pages, damaged journals and lost commits."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import func, select

from agent.core.errors import StoreError
from agent.store.backup import check_integrity
from agent.store.commit_mark import SUFFIX, UNKNOWN_SEQ, CommitMark, mark_beside, read_mark
from agent.store.database import Database
from agent.store.journal import digest_at, find_archive, last_event_seq, read_journal
from agent.store.queries import list_runs
from agent.store.runs import RunKind
from agent.store.tables import runs

TIME_LIMIT: Final = 10.0
"""Time limit of the quick check, in seconds."""

_INSTRUCTIONS: Final = 100_000  # SQLite virtual machine instructions between two checks of the time limit
_HINT: Final = "restore a backup: tapewire db restore"


class LostCommits(msgspec.Struct, frozen=True):
    """Committed events of a run that the store does not hold, or holds with another content."""

    run: str
    expected_seq: int  # the last committed event, or UNKNOWN_SEQ
    found_seq: int  # the last event in the store
    restored: str  # when the store was replaced by a backup, and by which one; empty if it was not
    message: str
    missing: bool = False  # the store does not hold the run at all

    @property
    def args(self) -> dict[str, str]:
        """Arguments of the command `record-behind`, which reports the loss to the core."""
        return {
            "run": self.run,
            "expected": str(self.expected_seq),
            "found": str(self.found_seq),
            "restored": self.restored,
            "detail": self.message,
        }

    @property
    def stamp(self) -> str:
        """The warning that every report of the run shows."""
        return f"THE RECORD HAS A HOLE: {self.message}"


def mark_path(database: Database, folder: Path | None = None) -> Path | None:
    """Return the path of a store's commit mark: beside an SQLite file, or in `folder` for a server."""
    if database.file is not None:
        return mark_beside(database.file)
    return None if database.is_sqlite or folder is None else folder / f"tapewire{SUFFIX}"


def find_lost_commits(database: Database, path: Path | None, only: str = "") -> LostCommits | None:
    """Compare the store with the commit mark at `path`; None if nothing is missing.

    Without a mark there is nothing to compare. With `only`, marks of other runs than this one are ignored.
    Raises StoreError if the store can't be read.
    """
    if path is None:
        return None
    try:
        # Before the journal: if an agent is running, the journal may be ahead of the mark, never behind
        mark = read_mark(path)
    except StoreError as error:
        return None if only else LostCommits("", UNKNOWN_SEQ, UNKNOWN_SEQ, "", error.message)
    if mark is None or not mark.run or only not in ("", mark.run):
        return None
    return _compare_with_mark(database, mark)


def _compare_with_mark(database: Database, mark: CommitMark) -> LostCommits | None:
    with database.read() as connection:
        known = connection.scalar(select(func.count()).select_from(runs).where(runs.c.id == mark.run))
    found = last_event_seq(database, mark.run) if known else 0
    run = f"run {mark.run}"
    if mark.seq == UNKNOWN_SEQ:
        message = f"the record of {run} ends at event {found:,}; how much is missing is not known"
    elif not known:
        message = f"the store does not hold {run}, of which {mark.seq:,} events had been committed"
    elif found < mark.seq and mark.restored:
        message = f"the record of {run} ends at event {found:,} of {mark.seq:,}"
    elif found < mark.seq:
        lost = f"{mark.seq - found:,} events that {run} had committed ({found + 1:,}…{mark.seq:,})"
        message = f"the store lacks the last {lost}"
    elif (archive := find_archive(database, mark.run)) is not None and archive.pruned_at is not None:
        return None  # the archive's own hash is checked when it is read
    else:
        digest = digest_at(database, mark.run, mark.seq)
        if not mark.digest or digest is None or digest.hex() == mark.digest:
            return None
        message = f"the events of {run} up to event {mark.seq:,} are not those that were committed"
    if mark.restored:
        message = f"the store was restored {mark.restored}; {message}"
    return LostCommits(mark.run, mark.seq, found, mark.restored, message, missing=not known)


def check_store(database: Database, folder: Path, *, full: bool = False, limit: float = TIME_LIMIT) -> str:
    """Check a store and return a description of what was checked.

    The quick check reads the structure of all pages for at most `limit` seconds, and compares the last live
    run with its commit mark. With `full` the check has no time limit, and also compares indexes with their
    tables and the journal of each live run with its digests.

    `folder` (live.folder) holds the commit mark of a store on a server. Raises StoreError for the first
    damage found.
    """
    done = []
    if database.file is not None:
        done.append(_check_pages(database.file, database.name, full=full, limit=limit))
    lost = find_lost_commits(database, mark_path(database, folder))
    if lost is not None:
        raise StoreError(lost.message, hint=_HINT)
    done.append("the store holds everything that the last live run committed")
    if full:
        events = 0
        for run in list_runs(database):
            if run.kind is RunKind.LIVE:
                events += sum(1 for _ in read_journal(database, run.id))
        done.append(f"{events:,} journal events match their digests")
    return ", ".join(done)


def _check_pages(file: Path, name: str, *, full: bool, limit: float) -> str:
    end = time.monotonic() + limit
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        try:
            if full:
                check_integrity(connection, name)
                return "its pages, indexes and references are sound"
            connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
            found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise StoreError(f"{name} can't be checked: {error}") from None
            return f"{limit:g} s of the quick check found nothing (tapewire doctor --full reads all of it)"
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{name} is damaged: {error}", hint=_HINT) from None
    if found != ["ok"]:
        raise StoreError(f"{name} is damaged: {'; '.join(found)}", hint=_HINT)
    return "its pages are sound"
