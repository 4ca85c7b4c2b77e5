"""The real store in a small file, which fails, and in whose transactions a life can end."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Connection, make_url
from sqlalchemy import event as sql

from agent.errors import StoreError
from agent.store.database import Database, open_database
from tests.simulation.weather import Weather


class Died(BaseException):
    """The process is no more: whatever it still does has no effect."""


class Store(Database):
    """A `Database` that a dead life can't reach: between two lives `dead` is set."""

    def __init__(self, folder: Path, dice: random.Random, weather: Weather, say: Callable[[str], None]) -> None:
        file = folder / "store.db"
        file.write_bytes(_empty())
        self._file = file
        super().__init__(make_url(f"sqlite:///{file}"))
        # The disk isn't what is simulated; what a transaction promises is
        sql.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        self.dead = False
        self._ends = False  # after the next commit
        self._dice = dice
        self._weather = weather
        self._say = say

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """As the product's; before or after its commit a life may end, and the commit may fail."""
        self._gate()
        with super().write() as connection:
            yield connection
            if self._dice.random() < self._weather.store_fails:
                self._say("the store fails")
                raise StoreError("the disk is full")
            self._perhaps_die("before a commit")
        self._perhaps_die("after a commit")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """As the product's."""
        self._gate()
        with super().read() as connection:
            yield connection

    def back_up(self, file: Path) -> bool:
        """Copy it as it is, if an account has been seen: a record without one has no history to lose."""
        with closing(sqlite3.connect(self._file)) as source, closing(sqlite3.connect(file)) as copy:
            if not source.execute("SELECT count(*) FROM journal WHERE kind = 'Account'").fetchone()[0]:
                return False
            source.backup(copy)
        return True

    def put_back(self, file: Path) -> None:
        """Let an older copy take its place, as `tapewire db restore` does."""
        self.engine.dispose()
        for rest in ("-wal", "-shm"):
            self._file.with_name(self._file.name + rest).unlink(missing_ok=True)
        shutil.copyfile(file, self._file)

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


@cache
def _empty() -> bytes:
    """A store with its tables, made once."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        with closing(open_database(f"sqlite:///{file}")):
            pass
        return file.read_bytes()
