"""Checks that the store still holds all commits of a live run, by a mark that each life leaves for the
next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.core.errors import StoreError
from agent.store.commit_mark import SYNC_EVERY, CommitMarkFile
from agent.store.database import Database
from agent.store.integrity import LostCommits, find_lost_commits, mark_path
from agent.store.lock import StoreLock, store_lock
from agent.store.runs import Run

_log: Final = structlog.get_logger(__name__)


class RunRecord:
    """The run's record as seen by one life. `gap` is what the store lacked at its start; None if nothing."""

    def __init__(
        self,
        gap: LostCommits | None = None,
        mark: CommitMarkFile | None = None,
        lock: StoreLock | None = None,
    ) -> None:
        self.gap = gap
        self.mark = mark
        self._lock = lock
        if mark is not None:
            mark.held = gap is not None

    @property
    def problem(self) -> str:
        """What is wrong with the record; empty if nothing is."""
        lines = [] if self.gap is None else [self.gap.message]
        if self.mark is not None and self.mark.error:
            lines.append(
                f"{self.mark.path} can't be written ({self.mark.failures:,} failures): {self.mark.error}; "
                "if the store loses commits now, it won't be noticed"
            )
        return "; ".join(lines)

    def acknowledge(self) -> None:
        """Allow the mark to be overwritten, since the gap is in the journal now.

        The next life then doesn't report it again.
        """
        if self.mark is not None:
            self.mark.release()

    def stamped(self, run: Run) -> Run:
        """Return the run; if the record has a gap, with a stamp that every report shows."""
        if self.gap is None:
            return run
        return replace(run, stamps=tuple(dict.fromkeys((*run.stamps, self.gap.stamp))))

    async def renew_lock(self) -> None:
        """Take the store's lock again if its server has lost it. Raises SafetyError if another agent holds it
        now.
        """
        if self._lock is not None and self._lock.on_server:
            with suppress(StoreError):  # while the server is unavailable, writes wait for it
                await asyncio.to_thread(self._lock.renew)


@contextmanager
def open_record(config: Config, database: Database, *, new: bool, orders: bool) -> Iterator[RunRecord]:
    """Lock the store for one live run, and compare it with the mark that the last life left.

    With `new` the user has chosen to begin without the last run, so a gap is only logged. With `orders`,
    which go to a venue, every commit is on the disk when it returns, and the mark soon after. Raises
    StoreError if the store doesn't hold the last run at all, and SafetyError if another agent has the store,
    or if its server doesn't wait for its disk.
    """
    with store_lock(database, config.live.folder) as lock:
        database.checkpoint_separately()
        if orders:
            database.sync_commits()
        path = mark_path(database, config.live.folder)
        gap = _known_gap(database, find_lost_commits(database, path), new=new)
        mark = None if path is None else CommitMarkFile(path, sync_every=SYNC_EVERY if orders else inf)
        yield RunRecord(gap, mark, lock)


def _known_gap(database: Database, gap: LostCommits | None, *, new: bool) -> LostCommits | None:
    """Log a gap. Raises StoreError if the run is gone, unless a backup was restored or a new run begins."""
    if gap is None or new:
        if gap is not None:
            _log.warning("a new run begins without the record of the last", reason=gap.message)
        return None
    if gap.missing and not gap.restored:
        raise StoreError(
            f"{database.name}: {gap.message}: the file or its -wal was removed, or replaced",
            hint="put both back, or restore a backup: tapewire db restore; "
            "to begin without the record: tapewire run --new",
        )
    _log.error("the store lacks what was committed", reason=gap.message)
    return gap
