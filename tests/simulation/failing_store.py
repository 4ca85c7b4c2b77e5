"""The real store in a small file, with failing writes, deaths during commits, and lost commits."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy import event as sql

from agent.core.errors import StoreError, StoreUnavailable
from agent.core.events import Command, Event, Funding
from agent.store.backup import back_up, restore_backup
from agent.store.commit_mark import mark_beside, read_mark
from agent.store.database import Database, Insert, open_database
from tests.simulation.fault_rates import FaultRates
from tests.simulation.invariants import require
from tests.simulation.random_config import STORAGE

_T = TypeVar("_T")
_BACKUP_AT: Final = (
    1_735_689_600  # fixed time of backups (s), since it is part of a text that must be reproducible
)


class ProcessDied(BaseException):
    """The process is dead: nothing that it still does has an effect."""


class SimulatedFailure(StoreError):
    """A failure of the store that a retry doesn't mend: it may end a life."""


@dataclass
class StorageFaults:
    """Probabilities of a seed's storage faults; see `random_config.STORAGE`."""

    power_cut: float = 0.0
    torn_log: float = 0.0
    restore: float = 0.0
    full_disk: float = 0.0
    failed_fsync: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random) -> StorageFaults:
        """Draw a seed's probabilities; most of them are zero."""
        return cls(**{name: rng.choice((0.0, 0.0, most * rng.random())) for name, most in STORAGE.items()})


class FailingStore(Database):
    """`Database` that a dead life cannot use: `dead` is set between two lives.

    `seconds` returns the loop's time. `lost` is the number of events lost by storage faults until a life has
    reported them.
    """

    def __init__(
        self,
        folder: Path,
        rng: random.Random,
        rates: FaultRates,
        log: Callable[[str], None],
        *,
        seed: int = 0,
        seconds: Callable[[], float] = float,
    ) -> None:
        self._store = folder / "store.db"
        self._store.write_bytes(_empty_store())
        super().__init__(make_url(f"sqlite:///{self._store}"))
        # Commits stay in the log, from where simulated faults can remove them
        sql.listen(self.engine, "connect", _disable_syncing)
        self.dead = False
        self.lost = 0  # events whose loss the next life must report
        self._storage_rng = random.Random(f"storage {seed}")
        self.faults = StorageFaults.draw(self._storage_rng)
        self._full_until = 0.0
        self._seconds = seconds
        # commits of this life since the last checkpoint, which counts as one: log size after it, whether it
        # was synced, and whether its sync failed
        self._commits: list[tuple[int, bool, bool]] = []
        self._backup = folder / "backup.db"
        self._dies_after_commit = False
        self._rng = rng
        self._rates = rates
        self._log = log

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._failing(super().write()) as connection:
            yield connection

    @contextmanager
    def batch(self) -> Iterator[Insert]:
        with self._failing(super().batch()) as insert:
            yield insert

    @contextmanager
    def _failing(self, transaction: AbstractContextManager[_T]) -> Iterator[_T]:
        """Open the product's transaction. The life may end before or after the commit, and the commit may
        fail or seem to fail.
        """
        self._check_alive()
        require(
            not self._commits or _size(self._wal) == self._commits[-1][0],
            "a commit was not exposed to the faults of the storage",
        )
        self._maybe_fill_disk()
        fails = self._storage_rng.random() < self.faults.failed_fsync
        happens = not fails or self._storage_rng.random() < 0.5
        with transaction as opened:
            yield opened
            if self._rng.random() < self._rates.store_fails:
                self._log("store write fails")
                raise SimulatedFailure("the disk is full")
            self._maybe_die("before a commit")
            if not happens:
                self._log("sync and commit fail")
                raise StoreUnavailable("the disk failed")
        self._commits.append((_size(self._wal), self.synced and not fails, fails))
        self._maybe_die("after a commit")
        if fails:
            self._log("sync fails after the commit")
            raise StoreUnavailable("the disk failed")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self._check_alive()
        with super().read() as connection:
            yield connection

    def checkpoint(self) -> None:
        """Copy the log into the file and empty it, unless the disk fails.

        No later fault undoes what the log held.
        """
        self._check_alive()
        if self._seconds() < self._full_until or self._storage_rng.random() < self.faults.failed_fsync:
            self._log("checkpoint fails")
            raise StoreUnavailable("the disk failed")
        super().checkpoint()
        # SQLite would write the next commits over the old ones; in an empty log their ends are its sizes
        with closing(self.engine.raw_connection()) as pooled:
            pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._commits = [(0, True, False)] if self._commits else []

    def back_up(self, file: Path) -> bool:
        """Copy the store if it has an account; a record without an account has no history to lose."""
        with closing(sqlite3.connect(self._store)) as source, closing(sqlite3.connect(file)) as copy:
            if not source.execute("SELECT count(*) FROM journal WHERE kind = 'Account'").fetchone()[0]:
                return False
            source.backup(copy)
        return True

    def restore_copy(self, file: Path) -> None:
        """Replace the store by an older copy, as `tapewire db restore` does."""
        self.engine.dispose()
        for rest in ("-wal", "-shm"):
            self._store.with_name(self._store.name + rest).unlink(missing_ok=True)
        shutil.copyfile(file, self._store)
        self._note_loss()

    def _check_alive(self) -> None:
        if self.dead:
            raise SimulatedFailure("the process is dead")

    def maybe_die_after_next_commit(self, probability: float) -> None:
        """Let the life end after the next commit, with this probability."""
        self._dies_after_commit = self._rng.random() < probability

    def _maybe_die(self, where: str) -> None:
        due = self._dies_after_commit and where == "after a commit"
        self._dies_after_commit = self._dies_after_commit and not due
        if due or self._rng.random() < self._rates.dies_in_store / 2:
            self._log(f"died {where}")
            self.dead = True
            raise ProcessDied

    # -- storage --------------------------------------------------------------------------------------------

    @property
    def _wal(self) -> Path:
        return self._store.with_name("store.db-wal")

    def _maybe_fill_disk(self) -> None:
        if self._storage_rng.random() < self.faults.full_disk:
            self._full_until = self._seconds() + self._storage_rng.uniform(0.5, 60)
            self._log(f"the disk is full until {self._full_until:.3f}")
        if self._seconds() < self._full_until:
            raise StoreUnavailable("the disk is full")

    def clear_faults(self) -> None:
        """End all storage faults."""
        self.faults = StorageFaults()
        self._full_until = 0.0

    def between_lives(self, *, sends: bool) -> None:
        """Apply a power cut, a damaged log or a restored backup. `sends` is True if the life traded at a
        venue.
        """
        rng, faults = self._storage_rng, self.faults
        if rng.random() < faults.power_cut:
            self._cut_power(sends=sends)
        elif rng.random() < faults.torn_log and self._commits:
            log = bytearray(self._wal.read_bytes())
            place = rng.randrange(self._commits[0][0], len(log) + 1)
            if rng.random() < 0.5 and place < len(log):
                log[place] ^= rng.randrange(1, 256)
            else:
                del log[place:]
            self._log(f"the log is damaged at byte {place}")
            self._rewrite(bytes(log))
        elif rng.random() < faults.restore:
            self._restore()
        self.engine.dispose()  # checkpoints the log into the file
        self._commits.clear()
        if not self._backup.exists() and self._events() and rng.random() < 0.3:
            back_up(self._store, self._backup)
            os.utime(self._backup, (_BACKUP_AT, _BACKUP_AT))

    def _cut_power(self, *, sends: bool) -> None:
        """Lose commits after the last synced one. The first commit, which begins the run, is always safe."""
        synced = [number for number, (_, safe, _) in enumerate(self._commits) if safe]
        first = max([0, *synced])
        if (
            not self._commits
            or (keep := self._storage_rng.randrange(first, len(self._commits))) == len(self._commits) - 1
        ):
            return
        self._log(f"power cut: {len(self._commits) - 1 - keep} commits lost")
        before = self._events()
        self._rewrite(self._wal.read_bytes()[: self._commits[keep][0]])
        # if the sync of a commit fails, the agent learns of it, and sends no order of that commit
        known = all(failed for _, _, failed in self._commits[keep + 1 :])
        require(
            not sends or known or self._events() == before,
            "a power cut lost events after which orders may have been sent",
        )

    def _restore(self) -> None:
        if not self._backup.exists():
            return
        self._log("backup restored")
        self.engine.dispose()
        _, kept = restore_backup(self._backup, self._store)
        if kept is not None:
            kept.unlink()
        self._file_id = None  # a new process opens another file
        self._note_loss()

    def _rewrite(self, log: bytes) -> None:
        """Write the file and its log as they are on the disk after the fault."""
        file = self._store.read_bytes()
        self.engine.dispose()
        with self._store.open("r+b") as store:
            store.truncate(0)
            store.write(file)
        self._wal.write_bytes(log)
        self._store.with_name("store.db-shm").unlink(missing_ok=True)
        self._note_loss()

    def _note_loss(self) -> None:
        mark = read_mark(mark_beside(self._store))
        self.lost = max(0, mark.seq - self._events()) if mark is not None else 0

    def _events(self) -> int:
        with closing(sqlite3.connect(self._store)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            return int(connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0])

    def check_loss_is_reported(self, event: Event) -> None:
        """Check that the loss of events is the first thing that a new life reports. Raises Violation."""
        if not self.lost:
            return
        if isinstance(event, Command) and event.action == "record-behind":
            self.lost = 0
            return
        begins = isinstance(event, Command | Funding)  # a command advances the time, which makes funding due
        require(begins, f"{self.lost} events are lost without a report: {event}")


def _disable_syncing(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA wal_autocheckpoint=0")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@cache
def _empty_store() -> bytes:
    """Return the content of an empty store; created once."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        with closing(open_database(f"sqlite:///{file}")):
            pass
        return file.read_bytes()
