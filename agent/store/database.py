"""Open a store by its URL, with the right settings and schema, and translate driver errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from stat import S_IWGRP, S_IWOTH, S_IWUSR
from typing import Any, Final, NamedTuple, cast

import msgspec
from sqlalchemy import URL, Connection, Select, Table, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from agent.core.errors import ConfigError, SafetyError, StoreError, StoreUnavailable, UsageError
from agent.core.masking import mask
from agent.store.backup import PageProgress, back_up, check_integrity
from agent.store.commit_mark import mark_beside, read_mark
from agent.store.private_files import make_private_folder, open_private, remove_abandoned
from agent.store.schema_revision import migrate, schema_state
from agent.store.tables import driver_insert, insert_rows

LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait while another process is writing."""

LONGEST_LOG: Final = 16_384
"""Pages of SQLite's write-ahead log (64 MiB) at which a commit copies it if `checkpoint` has not."""

_UPGRADE_LOCK: Final = 0x7A9E
"""Key of the advisory lock that allows one process at a time to upgrade a PostgreSQL database."""

_URL_HINT: Final = "write sqlite:///FILE or postgresql://USER@HOST/NAME"
_OPEN_HINT: Final = "give this user permission to read and write the file and its folder"
_BUSY_HINT: Final = "wait for the other run to end, or give this one its own store.url"
_FULL_HINT: Final = "free some space, or name another place in store.url; committed data is safe"
_CAUSES: Final[dict[str, tuple[str, str]]] = {
    "SQLITE_FULL": ("the disk is full", _FULL_HINT),
    "SQLITE_READONLY": ("it is read-only", _OPEN_HINT),
    "SQLITE_CANTOPEN": ("the file can't be opened", _OPEN_HINT),
    "SQLITE_PERM": ("access is denied", _OPEN_HINT),
    "SQLITE_BUSY": ("another process is writing to it", _BUSY_HINT),
    "SQLITE_LOCKED": ("another process is writing to it", _BUSY_HINT),
    "SQLITE_CORRUPT": ("the file is damaged", "replace it by a backup, or move it away to start a new one"),
    "SQLITE_NOTADB": ("the file is not an SQLite database", "name another file in store.url"),
    "SQLITE_IOERR": ("the disk failed", "check the disk; SQLite must not be used on network folders"),
    "53100": ("the server's disk is full", "free some space on the server; committed data is safe"),
    "25006": ("the server is read-only", "name the primary server in store.url"),
    "42501": ("permission denied", "grant the user of store.url the right to create and write tables"),
}
"""Message and hint for SQLite's primary result codes and PostgreSQL's SQLSTATE codes."""

_TRANSIENT: Final = (
    *(f"SQLITE_{name}" for name in ("FULL", "READONLY", "CANTOPEN", "PERM", "BUSY", "LOCKED", "IOERR")),
    *("08", "25006", "40", "53", "55P03", "57P"),
)
"""Prefixes of the codes of errors that can end, or be fixed, while the agent runs."""


Insert = Callable[[Table, Sequence[tuple[Any, ...]]], None]
"""Inserts rows, whose values are in the order of the table's columns."""


def _log() -> Any:
    """Return the logger; importing it takes longer than to open the store."""
    import structlog

    return structlog.get_logger(__name__)


class Database:
    """Connection to one store. Transactions are short, and one process writes at a time.

    Driver errors are raised as StoreError. SQLite runs in WAL mode with synchronous=NORMAL: a commit survives
    the death of the process (kill -9). After a power cut the file is intact, but may lack the last commits.
    After `sync_commits`, each commit is on the disk when it returns. After `checkpoint_separately`,
    `checkpoint` copies the write-ahead log into the file, and no commit waits for that.
    """

    def __init__(self, url: URL, *, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.name = mask(url.render_as_string(hide_password=True))
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.file = _sqlite_file(url) if self.is_sqlite else None
        """The SQLite file; None in memory or on a server."""
        options: dict[str, Any] = {"connect_timeout": 10}
        if self.is_sqlite:
            options = {"timeout": lock_timeout, "isolation_level": None}
        try:
            self.engine = create_engine(
                url,
                connect_args=options,
                paramstyle="qmark" if self.is_sqlite else "format",  # positional, for tables.insert_rows
                json_serializer=_to_json,
                json_deserializer=msgspec.json.decode,
            )
        except NoSuchModuleError:
            message = f"store.url: there is no database called {url.drivername!r}"
            raise ConfigError(message, hint=_URL_HINT) from None
        except ModuleNotFoundError as error:
            hint = "pip install 'tapewire[postgres]'"
            raise StoreError(f"{self.name}: the driver {error.name} is missing", hint=hint) from None
        self._driver_error: type[Exception] = cast(Any, self.engine.dialect.dbapi).Error
        self.synced = False
        """Whether each commit is on the disk when it returns."""
        self._checkpoint_at = 1_000  # pages of the write-ahead log; SQLite's own default
        self._file_id: tuple[int, int] | None = None  # device and inode of the open SQLite file
        self._read_options: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        if self.is_sqlite:
            event.listen(self.engine, "do_connect", self._check_before_connecting)
            event.listen(self.engine, "connect", self._configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction that sees a single state of the database."""
        with self._transaction(**self._read_options) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that takes SQLite's write lock at once; commit on exit, roll back on error."""
        with self._transaction(sqlite_begin="BEGIN IMMEDIATE") as connection:
            self._check_same_file()
            yield connection

    @contextmanager
    def batch(self) -> Iterator[Insert]:
        """Open a transaction like `write` that only inserts rows: yields a function that does, as
        `insert_rows`.

        On SQLite the driver is used directly, which takes a third of the time: a live run commits each batch
        of events before it decides on them.
        """
        if not self.is_sqlite:
            with self.write() as connection:
                yield partial(insert_rows, connection)
            return
        with self.translate_errors(), closing(self.engine.raw_connection()) as pooled:
            driver, dialect = cast(sqlite3.Connection, pooled.driver_connection), self.engine.dialect

            def insert(table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
                driver.executemany(*driver_insert(table, dialect, rows))

            driver.execute("BEGIN IMMEDIATE")
            try:
                self._check_same_file()
                yield insert
                dialect.do_commit(pooled)
            except BaseException:
                dialect.do_rollback(pooled)
                raise

    def stream_rows(
        self, connection: Connection, query: Select[Any], size: int
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Stream the rows of a query, `size` at a time, in the transaction of `connection`.

        They are the driver's: SQLAlchemy's would take as much time again.
        """
        compiled = query.compile(dialect=self.engine.dialect)
        values = [compiled.params[name] for name in compiled.positiontup or ()]
        driver = cast(Any, connection.connection.driver_connection)
        # A cursor with a name stays on the server, which then sends a part at a time
        with closing(driver.cursor() if self.is_sqlite else driver.cursor("rows")) as cursor:
            cursor.execute(str(compiled), values)
            while rows := cursor.fetchmany(size):
                yield rows

    def sync_commits(self) -> None:
        """Sync each commit to the disk before it returns: orders that follow from it can't be undone.

        Raises SafetyError if a PostgreSQL server doesn't wait for its disk.
        """
        if not self.is_sqlite:
            with self.read() as connection:
                names = ("synchronous_commit", "fsync")
                settings = {name: connection.scalar(text(f"SHOW {name}")) for name in names}
            if settings["synchronous_commit"] == "off":
                raise SafetyError(
                    f"{self.name}: synchronous_commit is off: a power cut could lose commits before orders",
                    hint="ALTER ROLE … SET synchronous_commit = on, or another level that waits for the disk",
                )
            if settings["fsync"] == "off":
                _log().warning("the store's server doesn't wait for its disk: fsync is off", store=self.name)
            self.synced = settings["fsync"] != "off"
        elif self.file is not None and not self.synced:
            self.synced = True
            self.engine.dispose()  # connections are configured when they are opened

    def checkpoint_separately(self) -> None:
        """Let only `checkpoint` copy SQLite's write-ahead log into the file, unless it reaches `LONGEST_LOG`.

        Otherwise the commit that makes it reach 1,000 pages does so, and waits for the disk.
        """
        if self.file is not None:
            self._checkpoint_at = LONGEST_LOG
            self.engine.dispose()

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the SQLite file, as far as readers allow; commits don't wait for it.

        Until then, a power cut may undo commits, unless they are synced. Does nothing on a server. Raises
        StoreError, for example if the file was moved.
        """
        if self.file is not None:
            with self.translate_errors(), closing(self.engine.raw_connection()) as pooled:
                cast(sqlite3.Connection, pooled.driver_connection).execute("PRAGMA wal_checkpoint(PASSIVE)")

    def commit_again(self, run_id: str) -> None:
        """Make an empty commit, which syncs an earlier commit that happened but reported an error."""
        with self.write() as connection:
            connection.execute(text("UPDATE runs SET id = id WHERE id = :id"), {"id": run_id})

    def _check_before_connecting(self, *_: object) -> None:
        """Raise StoreUnavailable if the file written to before is gone: SQLite would create an empty one."""
        if self._file_id is not None:
            self._check_same_file()

    def _configure_sqlite(self, connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        """Set the pragmas; the busy timeout is the argument `timeout` of sqlite3.connect."""
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={'FULL' if self.synced else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint={self._checkpoint_at}")

    def close(self) -> None:
        """Close the connections; SQLite then moves the write-ahead log into the file if no other is open."""
        self.engine.dispose()

    def _check_same_file(self) -> None:
        """Raise StoreUnavailable if the SQLite file was deleted, replaced or write-protected.

        Without this check, SQLite would go on writing to the open file, and the data would be lost.
        """
        if self.file is None:
            return
        try:
            found = self.file.stat()
        except OSError as error:
            raise StoreUnavailable(
                f"{self.name}: the file is gone: {error.strerror}",
                hint="put back the file that was moved; a copy is not the same file",
            ) from None
        file_id = (found.st_dev, found.st_ino)
        self._file_id = self._file_id or file_id
        if file_id != self._file_id:
            raise StoreUnavailable(
                f"{self.name}: the file was replaced by another one",
                hint="put back the first file, or restart with the second",
            )
        if not found.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH):
            raise StoreUnavailable(f"{self.name}: {_CAUSES['SQLITE_READONLY'][0]}", hint=_OPEN_HINT)

    @contextmanager
    def _transaction(self, **options: Any) -> Iterator[Connection]:
        with (
            self.translate_errors(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise driver errors as StoreError."""
        try:
            yield
        except DBAPIError as error:
            raise _to_store_error(self.name, error.orig or error) from error
        except self._driver_error as error:
            raise _to_store_error(self.name, error) from error


class SchemaUpgrade(NamedTuple):
    """Result of `upgrade`: the revisions before (None: empty) and after, and the backup if one was made."""

    before: str | None
    after: str
    backup: Path | None


def open_database(url: str, *, create: bool = True, lock_timeout: float = LOCK_TIMEOUT) -> Database:
    """Open a store; create its tables if it is empty. `url` is sqlite:///FILE or postgresql://USER@HOST/NAME.

    With `create=False`, a missing store is an error. Raises StoreError if the database can't be used, for
    example because its schema is older (see `upgrade`) or newer than this program's, and ConfigError if `url`
    is not valid.
    """
    database = _connect(url, lock_timeout)
    hint = "a backtest makes it; or name another in store.url"
    missing = StoreError(f"{database.name}: there is no such store yet", hint=hint)
    if database.file is not None and not database.file.exists():
        _check_not_lost(database)
        if not create:
            raise missing
    _make_folder(database)
    with database.read() as connection:
        current, needed = schema_state(connection, database.name)
    if current == needed:
        return database
    if current is not None:
        message = f"{database.name}: its schema {current} is older than this program's {needed}"
        raise StoreError(message, hint="run: tapewire db upgrade")
    _check_not_lost(database)
    if not create:
        raise missing
    _upgrade(database)
    return database


def _check_not_lost(database: Database) -> None:
    """Raise StoreError if a missing or empty store has a commit mark: a run was recorded in it."""
    if database.file is None:
        return
    path = mark_beside(database.file)
    mark = read_mark(path)
    if mark is not None and mark.run:
        raise StoreError(
            f"{database.name}: it is empty, though {mark.seq:,} events of run {mark.run} were committed "
            "to it: the file or its -wal was removed or replaced",
            hint=f"put both back, or restore a backup: tapewire db restore; to start anew, remove {path}",
        )


def upgrade(url: str, *, progress: PageProgress | None = None) -> SchemaUpgrade:
    """Upgrade the schema of the database at `url` in one transaction; create the database if it is missing.

    An SQLite file with an older schema is first copied to FILE.REVISION-TIME.backup, and the copy is checked.
    The transaction is committed only if the upgraded database is intact. Raises like `open_database`.
    """
    with closing(_connect(url, LOCK_TIMEOUT)) as database:
        _make_folder(database)
        if database.file is not None:
            remove_abandoned(database.file.parent)
        return _upgrade(database, progress)


def _upgrade(database: Database, progress: PageProgress | None = None) -> SchemaUpgrade:
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        before, needed = schema_state(connection, database.name)
        backup = None
        if before != needed:
            if before is not None and database.file is not None:
                stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
                backup = database.file.with_name(f"{database.file.name}.{before}-{stamp}.backup")
                back_up(database.file, backup, progress)
            migrate(connection)
            if backup is not None:  # before the commit: a damaged result is rolled back
                driver = cast(sqlite3.Connection, connection.connection.driver_connection)
                check_integrity(driver, database.name)
    return SchemaUpgrade(before, needed, backup)


def _make_folder(database: Database) -> None:
    """Create the folder and an empty private file; SQLite gives the files beside it the same mode."""
    if database.file is None:
        return
    try:
        make_private_folder(database.file.parent)
    except OSError as error:
        raise StoreError(f"{database.name}: its folder can't be created: {error}", hint=_OPEN_HINT) from error
    if not database.file.exists():
        with suppress(OSError):  # SQLite reports what is wrong
            open_private(database.file).close()


def store_file(url: str, instead: str) -> Path:
    """Return the file of an SQLite store. For a server, raise UsageError that suggests the tool `instead`."""
    file = sqlite_file(url)
    if file is None:
        message = f"{make_url(url).render_as_string()} is not an SQLite file"
        raise UsageError(message, hint=f"use the server's own tool: {instead}")
    return file


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite store; None in memory or on a server. Raises ConfigError."""
    with closing(_connect(url, LOCK_TIMEOUT)) as database:
        return database.file


def _connect(url: str, lock_timeout: float) -> Database:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(f"store.url: {url!r} is not a database URL", hint=_URL_HINT) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return Database(parsed, lock_timeout=lock_timeout)


def _sqlite_file(url: URL) -> Path | None:
    """Return the file of an SQLite URL; None in memory or for SQLite's own URI syntax (file:…)."""
    if not url.database or url.database.startswith((":memory:", "file:")):
        return None
    return Path(url.database)


def _begin_sqlite(connection: Connection) -> None:
    """Begin explicitly, since Python's sqlite3 would begin too late and commit before DDL."""
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _to_json(value: Any) -> str:
    """Encode JSON: NaN and infinity become null, decimals text, and structs objects."""
    return msgspec.json.encode(value).decode()


def _to_store_error(name: str, error: BaseException) -> StoreError:
    sqlite_name = getattr(error, "sqlite_errorname", None)
    code = "_".join(sqlite_name.split("_")[:2]) if sqlite_name else getattr(error, "sqlstate", None)
    message, hint = _CAUSES.get(code or "", (" ".join(str(error).split()), ""))
    unreachable = (
        isinstance(error, Exception) and type(error).__name__ == "OperationalError"
    )  # it has no code
    transient = code.startswith(_TRANSIENT) if code else unreachable
    return (StoreUnavailable if transient else StoreError)(f"{name}: {message}", hint=hint)
