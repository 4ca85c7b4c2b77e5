"""The real store in a small file, which fails, in whose transactions a life can end, and which loses what no disk has promised."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sqlalchemy import Connection, make_url
from sqlalchemy import event as sql

from agent.core.errors import StoreError, StoreUnavailable
from agent.core.events import Command, Event, Funding
from agent.store.backup import back_up, restore_backup
from agent.store.commit_mark import mark_beside, read_mark
from agent.store.database import Database, open_database
from tests.simulation.invariants import hold
from tests.simulation.settings import STORAGE
from tests.simulation.weather import Weather

# when every backup was made, s: the text that names it must be the same each time
_BACKUP_AT: Final = 1_735_689_600


class Died(BaseException):
    """The process is no more: whatever it still does has no effect."""


@dataclass
class StorageFaults:
    """What goes wrong with the storage in a seed, and how likely it is each time; see `settings.STORAGE`."""

    power_cut: float = 0.0
    torn_log: float = 0.0
    restore: float = 0.0
    full_disk: float = 0.0
    failed_fsync: float = 0.0

    @classmethod
    def draw(cls, dice: random.Random) -> StorageFaults:
        """A seed's mixture; most seeds leave most of it out."""
        return cls(**{name: dice.choice((0.0, 0.0, most * dice.random())) for name, most in STORAGE.items()})


class Store(Database):
    """A `Database` that a dead life can't reach: between two lives `dead` is set.

    `seconds` is the loop's time. What a fault of the storage has lost is in `lost` until a life has reported it.
    """

    def __init__(
        self, folder: Path, dice: random.Random, weather: Weather, say: Callable[[str], None], *, seed: int = 0,
        seconds: Callable[[], float] = float,
    ) -> None:  # fmt: skip
        self._store = folder / "store.db"
        self._store.write_bytes(_empty())
        super().__init__(make_url(f"sqlite:///{self._store}"))
        # The disk isn't what is simulated; what a transaction promises is. A life's commits stay in the log, where they can be lost
        sql.listen(self.engine, "connect", _leave_to_the_simulation)
        self.dead = False
        self.lost = 0  # events that the next life must report
        self._storage_dice = random.Random(f"storage {seed}")
        self.faults = StorageFaults.draw(self._storage_dice)
        self._full_until = 0.0
        self._seconds = seconds
        # of this life: bytes of the log after it, and whether it was synced
        self._commits: list[tuple[int, bool]] = []
        self._backup = folder / "backup.db"
        self._ends = False  # after the next commit
        self._dice = dice
        self._weather = weather
        self._say = say

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """As the product's; before or after its commit a life may end, and the commit may fail, or seem to."""
        self._gate()
        self._perhaps_full()
        fails = self._storage_dice.random() < self.faults.failed_fsync
        happens = not fails or self._storage_dice.random() < 0.5
        with super().write() as connection:
            yield connection
            if self._dice.random() < self._weather.store_fails:
                self._say("the store fails")
                raise StoreError("the disk is full")
            self._perhaps_die("before a commit")
            if not happens:
                self._say("a sync fails, and the commit with it")
                raise StoreUnavailable("the disk failed")
        self._commits.append((_size(self._wal), self.synced and not fails))
        self._perhaps_die("after a commit")
        if fails:
            self._say("a sync fails after the commit")
            raise StoreUnavailable("the disk failed")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """As the product's."""
        self._gate()
        with super().read() as connection:
            yield connection

    def back_up(self, file: Path) -> bool:
        """Copy it as it is, if an account has been seen: a record without one has no history to lose."""
        with closing(sqlite3.connect(self._store)) as source, closing(sqlite3.connect(file)) as copy:
            if not source.execute("SELECT count(*) FROM journal WHERE kind = 'Account'").fetchone()[0]:
                return False
            source.backup(copy)
        return True

    def put_back(self, file: Path) -> None:
        """Let an older copy take its place, as `tapewire db restore` does."""
        self.engine.dispose()
        for rest in ("-wal", "-shm"):
            self._store.with_name(self._store.name + rest).unlink(missing_ok=True)
        shutil.copyfile(file, self._store)
        self._note_loss()

    def _gate(self) -> None:
        if self.dead:
            raise StoreError("this life is over")

    def perhaps_end_with(self, probability: float) -> None:
        """End the life after the next commit."""
        self._ends = self._dice.random() < probability

    def _perhaps_die(self, where: str) -> None:
        due = self._ends and where == "after a commit"
        self._ends = self._ends and not due
        if due or self._dice.random() < self._weather.dies_in_store / 2:
            self._say(f"died {where}")
            self.dead = True
            raise Died

    # -- storage -------------------------------------------------------------------------------------------------------

    @property
    def _wal(self) -> Path:
        return self._store.with_name("store.db-wal")

    def _perhaps_full(self) -> None:
        if self._storage_dice.random() < self.faults.full_disk:
            self._full_until = self._seconds() + self._storage_dice.uniform(0.5, 60)
            self._say(f"the disk is full until {self._full_until:.3f}")
        if self._seconds() < self._full_until:
            raise StoreUnavailable("the disk is full")

    def clear_faults(self) -> None:
        """Nothing goes wrong with the storage any more."""
        self.faults = StorageFaults()
        self._full_until = 0.0

    def between_lives(self, *, sends: bool) -> None:
        """A life is over: perhaps the machine is as well, or a person restores a backup. `sends`: it traded at a venue."""
        dice, faults = self._storage_dice, self.faults
        if dice.random() < faults.power_cut:
            self._cut_power(sends=sends)
        elif dice.random() < faults.torn_log and self._commits:
            log = bytearray(self._wal.read_bytes())
            place = dice.randrange(self._commits[0][0], len(log) + 1)
            if dice.random() < 0.5 and place < len(log):
                log[place] ^= dice.randrange(1, 256)
            else:
                del log[place:]
            self._say(f"the log is damaged at byte {place}")
            self._rewrite(bytes(log))
        elif dice.random() < faults.restore:
            self._restore()
        self.engine.dispose()  # the log is folded into the file: what is there now stays
        self._commits.clear()
        if not self._backup.exists() and self._events() and dice.random() < 0.3:
            back_up(self._store, self._backup)
            os.utime(self._backup, (_BACKUP_AT, _BACKUP_AT))

    def _cut_power(self, *, sends: bool) -> None:
        """The commits vanish for which nobody has waited for the disk; the first, which begins the run, has reached it."""
        synced = [number for number, (_, safe) in enumerate(self._commits) if safe]
        first = max([0, *synced])
        if (
            not self._commits
            or (keep := self._storage_dice.randrange(first, len(self._commits))) == len(self._commits) - 1
        ):
            return
        self._say(f"a power cut: {len(self._commits) - 1 - keep} commits are lost")
        before = self._events()
        self._rewrite(self._wal.read_bytes()[: self._commits[keep][0]])
        hold(
            not sends or self._events() == before, "a power cut takes events after which orders may have left"
        )

    def _restore(self) -> None:
        if not self._backup.exists():
            return
        self._say("a backup is restored")
        self.engine.dispose()
        _, kept = restore_backup(self._backup, self._store)
        if kept is not None:
            kept.unlink()
        self._file_id = None  # a new process opens another file
        self._note_loss()

    def _rewrite(self, log: bytes) -> None:
        """Put the file and its log there as they are on the disk after the fault."""
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

    def handled(self, event: Event) -> None:
        """An event of a running life: what was lost is the first thing that it learns. Raises Violation."""
        if not self.lost:
            return
        if isinstance(event, Command) and event.action == "record-behind":
            self.lost = 0
            return
        # a command brings the time, and with it the funding that is due
        begins = isinstance(event, Command | Funding)
        hold(begins, f"{self.lost} events are lost, and nobody has noticed: {event}")


def _leave_to_the_simulation(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA wal_autocheckpoint=0")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@cache
def _empty() -> bytes:
    """A store with its tables, made once."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        with closing(open_database(f"sqlite:///{file}")):
            pass
        return file.read_bytes()
