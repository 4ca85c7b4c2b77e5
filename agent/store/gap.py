"""Whether the store still holds what a live run had committed, by the mark that is kept beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import func, select

from agent.core.errors import StoreError
from agent.store.database import Database
from agent.store.journal import digest_at, find_archive, last_event
from agent.store.mark import SUFFIX, UNKNOWN_SEQ, Mark, mark_beside, read_mark
from agent.store.tables import runs


class StoreGap(msgspec.Struct, frozen=True):
    """What the store lacks of a run, or holds otherwise than it was committed."""

    run: str
    expected_seq: int  # the last event that was committed, or UNKNOWN_SEQ
    found_seq: int  # the last event in the store
    restored: str  # when the store was replaced by a backup, and by which; empty: it was not
    message: str
    missing: bool = False  # the store doesn't know the run at all

    @property
    def args(self) -> dict[str, str]:
        """The arguments of the command `record-behind`, which informs the core."""
        return {
            "run": self.run, "expected": str(self.expected_seq), "found": str(self.found_seq), "restored": self.restored,
            "detail": self.message,
        }  # fmt: skip

    @property
    def stamp(self) -> str:
        """The warning that every report of the run shows."""
        return f"THE RECORD HAS A HOLE: {self.message}"


def mark_path(database: Database, folder: Path | None = None) -> Path | None:
    """Path of a store's mark: beside an SQLite file, in `folder` (live.folder) for a server, None in memory."""
    if database.file is not None:
        return mark_beside(database.file)
    return None if database.is_sqlite or folder is None else folder / f"tapewire{SUFFIX}"


def find_gap(database: Database, path: Path | None, only: str = "") -> StoreGap | None:
    """Compare the store with the mark at `path`; None if nothing is missing, or if no run was recorded yet.

    With `only` the mark of another run is ignored. Raises StoreError if the store can't be read.
    """
    if path is None:
        return None
    try:
        # before the journal: beside a running agent the journal may be ahead, never behind
        mark = read_mark(path)
    except StoreError as error:
        return None if only else StoreGap("", UNKNOWN_SEQ, UNKNOWN_SEQ, "", error.message)
    if mark is None or not mark.run or only not in ("", mark.run):
        return None
    return compare(database, mark)


def compare(database: Database, mark: Mark) -> StoreGap | None:
    """Like `find_gap`, with a mark that was already read."""
    with database.read() as connection:
        known = connection.scalar(select(func.count()).select_from(runs).where(runs.c.id == mark.run))
    found = last_event(database, mark.run) if known else 0
    run = f"run {mark.run}"
    if mark.seq == UNKNOWN_SEQ:
        words = f"the record of {run} ends at event {found:,}; how much is missing is not known"
    elif not known:
        words = f"the store does not hold {run}, of which {mark.seq:,} events had been committed"
    elif found < mark.seq and mark.restored:
        words = f"the record of {run} ends at event {found:,} of {mark.seq:,}"
    elif found < mark.seq:
        words = f"the store lacks the last {mark.seq - found:,} events that {run} had committed ({found + 1:,}…{mark.seq:,})"
    elif (archive := find_archive(database, mark.run)) is not None and archive.pruned_at is not None:
        return None  # the file has its own hash, which is checked when it is read
    else:
        digest = digest_at(database, mark.run, mark.seq)
        if not mark.digest or digest is None or digest.hex() == mark.digest:
            return None
        words = f"the events of {run} up to event {mark.seq:,} are not those that were committed"
    if mark.restored:
        words = f"the store was restored {mark.restored}; {words}"
    return StoreGap(mark.run, mark.seq, found, mark.restored, words, missing=not known)
