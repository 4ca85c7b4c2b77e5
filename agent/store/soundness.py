"""Whether a store is damaged: its pages, its journals, and what was committed of the last live run."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from agent.core.errors import StoreError
from agent.store.backup import check_integrity
from agent.store.database import Database
from agent.store.gap import find_gap, mark_path
from agent.store.journal import read_journal
from agent.store.queries import list_runs
from agent.store.runs import RunKind

TIME_LIMIT: Final = 10.0
"""Seconds that the quick check may take."""

_INSTRUCTIONS: Final = 100_000  # of SQLite's machine between two looks at the time
_HINT: Final = "restore a backup: tapewire db restore"


def check_store(database: Database, folder: Path, *, full: bool = False, limit: float = TIME_LIMIT) -> str:
    """Return what was checked. Raises StoreError for the first damage found.

    The quick check reads the structure of all pages for at most `limit` seconds, and compares the last live run with the mark
    that is kept apart from the store (of a server's store in `folder`, live.folder). The `full` one takes as long as it takes: it
    also compares indexes with tables, and the journal of each live run with its digests.
    """
    done = []
    if database.file is not None:
        done.append(_check_pages(database.file, database.name, full=full, limit=limit))
    gap = find_gap(database, mark_path(database, folder))
    if gap is not None:
        raise StoreError(gap.message, hint=_HINT)
    done.append("nothing is missing that the last live run had committed")
    if full:
        events = 0
        for run in list_runs(database):
            if run.kind is RunKind.LIVE:
                events += sum(1 for _ in read_journal(database, run.id))
        done.append(f"{events:,} events of its journals are as they were committed")
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
