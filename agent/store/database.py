"""The database behind a URL: opened with the right settings, at the right schema, and with errors that a person can act on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IWGRP, S_IWOTH, S_IWUSR
from typing import Any, Final, NamedTuple, cast

import msgspec
import structlog
from sqlalchemy import URL, Connection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from agent.core.errors import ConfigError, SafetyError, StoreError, StoreUnavailable, UsageError
from agent.core.masking import mask
from agent.store.backup import Progress, back_up, check_integrity
from agent.store.files import make_private_folder, open_private, remove_abandoned
from agent.store.mark import mark_beside, read_mark
from agent.store.schema import migrate, schema_state

_log: Final = structlog.get_logger(__name__)

LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait for another process that is writing."""

_UPGRADE_LOCK: Final = 0x7A9E
"""Key of the advisory lock that lets one process at a time upgrade a PostgreSQL database."""

_OPEN_HINT: Final = "give this user the right to read and write the file and its folder"
_BUSY_HINT: Final = "wait for the other run to end, or give this one its own store.url"
_CAUSES: Final[dict[str, tuple[str, str]]] = {
    "SQLITE_FULL": (
        "the disk is full",
        "free some space, or name another place in store.url; what was committed is safe",
    ),
    "SQLITE_READONLY": ("it is read-only", _OPEN_HINT),
    "SQLITE_CANTOPEN": ("the file can't be opened", _OPEN_HINT),
    "SQLITE_PERM": ("access is denied", _OPEN_HINT),
    "SQLITE_BUSY": ("another process is writing to it", _BUSY_HINT),
    "SQLITE_LOCKED": ("another process is writing to it", _BUSY_HINT),
    "SQLITE_CORRUPT": (
        "the file is damaged",
        "put a backup in its place, or move it away to begin a new one",
    ),
    "SQLITE_NOTADB": ("the file is not an SQLite database", "name another file in store.url"),
    "SQLITE_IOERR": ("the disk failed", "check the disk; network folders are not fit for SQLite"),
    "53100": ("the server's disk is full", "free some space on the server; what was committed is safe"),
    "25006": ("the server is read-only", "name the primary server in store.url"),
    "42501": (
        "this user may not do that",
        "grant the user of store.url the right to create and write tables",
    ),
}
"""SQLite's primary result code, or PostgreSQL's SQLSTATE: what happened, and what to do."""

_PASSING: Final = (
    "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR",
    "08", "25006", "40", "53", "55P03", "57P",
)  # fmt: skip
"""Beginnings of the codes of what may pass by itself, or by what a person does meanwhile."""


class Database:
    """One store. Transactions are short, and one process writes at a time. Errors of the driver leave as StoreError.

    SQLite runs in WAL with synchronous=NORMAL: a commit survives the death of the process (kill -9); after a power cut the
    file is sound but may lack the last commits. After `sync_commits` each commit is on the disk when it returns.
    """

    def __init__(self, url: URL, *, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.name = mask(url.render_as_string(hide_password=True))
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.file = _sqlite_file(url) if self.is_sqlite else None
        """Of SQLite: the file, or None in memory."""
        options: dict[str, Any] = {"connect_timeout": 10}
        if self.is_sqlite:
            options = {"timeout": lock_timeout, "isolation_level": None}
        try:
            self.engine = create_engine(
                url,
                connect_args=options,
                paramstyle="qmark" if self.is_sqlite else "format",  # positional, for agent.store.bulk
                json_serializer=_to_json,
                json_deserializer=msgspec.json.decode,
            )
        except NoSuchModuleError:
            raise ConfigError(
                f"store.url: there is no database called {url.drivername!r}", hint=_URL_HINT
            ) from None
        except ModuleNotFoundError as error:
            hint = "pip install 'tapewire[postgres]'"
            raise StoreError(f"{self.name}: the driver {error.name} is missing", hint=hint) from None
        self.synced = False
        """Whether a commit is on the disk when it returns."""
        self._place: tuple[int, int] | None = None  # device and inode of the SQLite file that is open
        self._reading: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        if self.is_sqlite:
            event.listen(self.engine, "connect", self._configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database, whatever is written meanwhile."""
        with self._transaction(**self._reading) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that takes SQLite's write lock at once; all of it is committed at the end, nothing after an error."""
        with self._transaction(sqlite_begin="BEGIN IMMEDIATE") as connection:
            self._check_place()
            yield connection

    def sync_commits(self) -> None:
        """Let every commit be on the disk when it returns: orders may follow from it that can't be taken back.

        Raises SafetyError if a PostgreSQL server doesn't wait for its disk.
        """
        if not self.is_sqlite:
            with self.read() as connection:
                settings = {
                    name: connection.scalar(text(f"SHOW {name}")) for name in ("synchronous_commit", "fsync")
                }
            if settings["synchronous_commit"] == "off":
                raise SafetyError(
                    f"{self.name}: synchronous_commit is off: after a power cut the server lacks commits that orders followed from",
                    hint="ALTER ROLE … SET synchronous_commit = on, or another level that waits for the server's disk",
                )
            if settings["fsync"] == "off":
                _log.warning(
                    "the server of the store doesn't wait for its disk: fsync is off", store=self.name
                )
            self.synced = settings["fsync"] != "off"
        elif self.file is not None and not self.synced:
            self.synced = True
            self.engine.dispose()  # connections are configured when they are opened

    def confirm(self, run_id: str) -> None:
        """Commit once more: what an earlier commit left behind, whose answer was an error, is on the disk after it."""
        with self.write() as connection:
            connection.execute(text("UPDATE runs SET id = id WHERE id = :id"), {"id": run_id})

    def _configure_sqlite(self, connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        """The busy timeout is the argument `timeout` of sqlite3.connect."""
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={'FULL' if self.synced else 'NORMAL'}")

    def close(self) -> None:
        """Give back the connections; the last to leave folds SQLite's write-ahead log into the file."""
        self.engine.dispose()

    def _check_place(self) -> None:
        """An open file can be written for ever, deleted or write-protected though it is; and all of it would be lost."""
        if self.file is None:
            return
        try:
            found = self.file.stat()
        except OSError as error:
            raise StoreUnavailable(
                f"{self.name}: the file is gone: {error.strerror}",
                hint="put back what was moved; a copy is another file",
            ) from None
        place = (found.st_dev, found.st_ino)
        self._place = self._place or place
        if place != self._place:
            raise StoreUnavailable(
                f"{self.name}: another file has taken its place",
                hint="put back the first, or restart with the second",
            )
        if not found.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH):
            raise StoreUnavailable(f"{self.name}: {_CAUSES['SQLITE_READONLY'][0]}", hint=_OPEN_HINT)

    @contextmanager
    def _transaction(self, **options: Any) -> Iterator[Connection]:
        with (
            self.errors_explained(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Errors of the driver leave as StoreError."""
        try:
            yield
        except DBAPIError as error:
            raise _explain(self.name, error.orig or error) from error
        except sqlite3.Error as error:
            raise _explain(self.name, error) from error


class Upgrade(NamedTuple):
    """What `upgrade` did: the schema's revision before (None: an empty database) and after, and the backup, if one was made."""

    before: str | None
    after: str
    backup: Path | None


def open_database(url: str, *, create: bool = True, lock_timeout: float = LOCK_TIMEOUT) -> Database:
    """The store at `url` (sqlite:///FILE or postgresql://USER@HOST/NAME), ready to use; an empty one gets its tables.

    With `create=False` a store that doesn't exist yet is an error. Raises StoreError where the database can't be used, among
    others because its schema is older (see `upgrade`) or newer than this program's, and ConfigError for what is no URL.
    """
    database = _connect(url, lock_timeout)
    missing = StoreError(
        f"{database.name}: there is no such store yet",
        hint="a backtest makes it; or name another in store.url",
    )
    if database.file is not None and not database.file.exists():
        _check_emptiness(database)
        if not create:
            raise missing
    _make_folder(database)
    with database.read() as connection:
        current, needed = schema_state(connection, database.name)
    if current == needed:
        return database
    if current is not None:
        raise StoreError(
            f"{database.name}: its schema {current} is older than this program's {needed}",
            hint="run: tapewire db upgrade",
        )
    _check_emptiness(database)
    if not create:
        raise missing
    _upgrade(database)
    return database


def _check_emptiness(database: Database) -> None:
    """Raises StoreError if the store is missing or empty, and the mark beside it names a run that was recorded in it."""
    if database.file is None:
        return
    path = mark_beside(database.file)
    mark = read_mark(path)
    if mark is not None and mark.run:
        raise StoreError(
            f"{database.name}: there is nothing in it, though {mark.seq:,} events of run {mark.run} were committed there: "
            "the file or its -wal was removed, or replaced",
            hint=f"put both back, or restore a backup: tapewire db restore; to begin without the record, remove {path}",
        )


def upgrade(url: str, *, lock_timeout: float = LOCK_TIMEOUT, progress: Progress | None = None) -> Upgrade:
    """Bring the schema of the database at `url` to this program's, in one transaction; make the database where it is missing.

    An SQLite file with an older schema is first copied to FILE.REVISION-TIME.backup, and the copy looked through; the
    transaction is committed only where the new state is sound too. Raises like `open_database`.
    """
    with closing(_connect(url, lock_timeout)) as database:
        _make_folder(database)
        if database.file is not None:
            remove_abandoned(database.file.parent)
        return _upgrade(database, progress)


def _upgrade(database: Database, progress: Progress | None = None) -> Upgrade:
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        before, needed = schema_state(connection, database.name)
        backup = None
        if before != needed:
            if before is not None and database.file is not None:
                backup = database.file.with_name(
                    f"{database.file.name}.{before}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup"
                )
                back_up(database.file, backup, progress)
            migrate(connection)
            # nothing is committed that isn't sound: there is nothing to take back then
            if backup is not None:
                check_integrity(
                    cast(sqlite3.Connection, connection.connection.driver_connection), database.name
                )
    return Upgrade(before, needed, backup)


def _make_folder(database: Database) -> None:
    """Make the folder and an empty file, which only this user may read; SQLite gives the files beside it the same mode."""
    if database.file is None:
        return
    try:
        make_private_folder(database.file.parent)
    except OSError as error:
        raise StoreError(f"{database.name}: its folder can't be made: {error}", hint=_OPEN_HINT) from error
    if not database.file.exists():
        with suppress(OSError):  # SQLite says what is wrong
            open_private(database.file).close()


def store_file(url: str, instead: str) -> Path:
    """The file of an SQLite store. Raises UsageError for another one, whose own tool is called `instead`."""
    file = sqlite_file(url)
    if file is None:
        raise UsageError(
            f"{make_url(url).render_as_string()} is no SQLite file",
            hint=f"its server has a tool for that: {instead}",
        )
    return file


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite store; None for one in memory or on a server. Raises ConfigError for what is no URL."""
    with closing(_connect(url, LOCK_TIMEOUT)) as database:
        return database.file


_URL_HINT: Final = "write sqlite:///FILE or postgresql://USER@HOST/NAME"


def _connect(url: str, lock_timeout: float) -> Database:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(f"store.url: {url!r} is not a database URL", hint=_URL_HINT) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return Database(parsed, lock_timeout=lock_timeout)


def _sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite URL; None for one in memory, or where the URL speaks SQLite's own URI language."""
    if not url.database or url.database.startswith((":memory:", "file:")):
        return None
    return Path(url.database)


def _begin_sqlite(connection: Connection) -> None:
    """Python's sqlite3 would begin too late, and commit before DDL; so it is told to keep out, and we begin."""
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _to_json(value: Any) -> str:
    """NaN and infinity become null, decimals text, structs objects."""
    return msgspec.json.encode(value).decode()


def _explain(name: str, error: BaseException) -> StoreError:
    """The driver's `error` in a person's words."""
    sqlite_name = getattr(error, "sqlite_errorname", None)
    code = "_".join(sqlite_name.split("_")[:2]) if sqlite_name else getattr(error, "sqlstate", None)
    what, hint = _CAUSES.get(code or "", (" ".join(str(error).split()), ""))
    # A server that is gone gives no code at all
    passing = (
        code.startswith(_PASSING)
        if code
        else isinstance(error, Exception) and type(error).__name__ == "OperationalError"
    )
    return (StoreUnavailable if passing else StoreError)(f"{name}: {what}", hint=hint)
