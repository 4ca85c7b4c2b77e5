"""One agent a folder, and one a store: two would trade the same account."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agent.core.errors import SafetyError, StoreError
from agent.store.database import Database
from agent.store.private_files import make_private_folder, open_private

LOCK: Final = "tapewire.lock"
"""Its name in `live.folder`."""

STORE_LOCK: Final = ".lock"
"""Appended to the file name of an SQLite store."""

_KEY: Final = 0x7A9F  # of the advisory lock in a PostgreSQL database
_LINGERS: Final = 2.0
"""Seconds for which a server may keep the lock of a process that has ended: it notices that later."""

_HINT: Final = "stop it, or give this one another live.folder and store.url"


@contextmanager
def instance_lock(path: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when the process ends, however it ends.

    Raises SafetyError if another process holds it, and StoreError if the file can't be opened or locked.
    """
    with _locked(
        path, f"{os.getpid()}", "an agent is running already, process {holder}, which holds " + str(path)
    ):
        yield


@contextmanager
def file_lock(store: Path, folder: Path) -> Iterator[None]:
    """Hold the lock beside an SQLite store, for an agent or a tool whose `live.folder` is `folder`.
    Raises like `instance_lock`.
    """
    real = store.resolve()
    refusal = f"the store {store} is in use by another agent, process {{holder}}"
    with _locked(
        real.with_name(real.name + STORE_LOCK), f"{os.getpid()}, live.folder {folder.resolve()}", refusal
    ):
        yield


class StoreLock:
    """The right to record a live run in a store; on a server it is an advisory lock, which lives as long
    as its connection.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._name = f"tapewire {os.getpid()}, live.folder {folder.resolve()}"
        self._connection: Connection | None = None

    @property
    def on_server(self) -> bool:
        """Whether the lock may be lost while the process lives."""
        return self._connection is not None

    def take(self) -> None:
        """Wait for an agent that has just ended. Raises SafetyError if another one holds the lock, StoreError
        if the server can't be reached.
        """
        self.release()
        with self._database.translate_errors():
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                connection.execute(
                    text("SELECT set_config('application_name', :name, false)"), {"name": self._name[:63]}
                )
                until = time.monotonic() + _LINGERS
                while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}):
                    if time.monotonic() > until:
                        raise self._refusal(connection)
                    time.sleep(_LINGERS / 20)
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
        self._connection = connection

    def _refusal(self, connection: Connection) -> SafetyError:
        """Return the error that names the process and folder of the lock's holder."""
        query = text(
            "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) "
            "WHERE locktype = 'advisory' AND classid = 0 AND objid = :key AND granted"
        )
        holder = str(connection.scalar(query, {"key": _KEY}) or "unknown").removeprefix("tapewire ")
        return SafetyError(
            f"the store {self._database.name} is in use by another agent, process {holder}", hint=_HINT
        )

    def renew(self) -> None:
        """Take the lock again if its connection was lost. Raises like `take`."""
        if self._connection is None:
            return
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            self.take()

    def release(self) -> None:
        """Give the lock back, and close its connection, which must not go back to the pool."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):  # the server would notice the closed connection some time later
                self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _KEY})
            with suppress(DBAPIError):
                self._connection.invalidate()
            self._connection.close()
            self._connection = None


@contextmanager
def store_lock(database: Database, folder: Path) -> Iterator[StoreLock]:
    """Hold the exclusive right to record a live run in `database`, for an agent whose `live.folder` is
    `folder`.

    Backtests, reports and backups don't take it. Raises SafetyError, which names the process and folder of
    the other agent, and StoreError.
    """
    lock = StoreLock(database, folder)
    if database.file is not None:
        with file_lock(database.file, folder):
            yield lock
    elif database.is_sqlite:  # in memory: no other process sees it
        yield lock
    else:
        lock.take()
        try:
            yield lock
        finally:
            lock.release()


@contextmanager
def _locked(path: Path, content: str, refusal: str) -> Iterator[None]:
    try:
        make_private_folder(path.parent)
        file = open_private(path)
    except OSError as error:
        raise StoreError(
            f"{path} can't be opened: {error.strerror}", hint="give this user the right to write there"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().decode(errors="replace").strip()
            raise SafetyError(refusal.format(holder=holder or "unknown"), hint=_HINT) from None
        file.truncate(0)
        file.seek(0)
        file.write(f"{content}\n".encode())
        yield
