"""Backups of an SQLite store, made while the store is in use, checked, and restored."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.core.errors import SafetyError, StoreError, UsageError
from agent.store.commit_mark import UNKNOWN_SEQ, CommitMark, CommitMarkFile, mark_beside, read_mark
from agent.store.private_files import SIDE_FILES, remove_abandoned, unfinished_copy
from agent.store.schema_revision import check_not_newer

PAGES: Final = 2_000
"""Pages copied between two progress reports: 8 MB at SQLite's default page size."""

_BUSY_MS: Final = 2_000
_SPACE_HINT: Final = "check free space and permissions"

PageProgress = Callable[[int, int], None]
"""Receives the number of copied pages and the total number of pages."""


class StoreContents(msgspec.Struct, frozen=True):
    """What a backup contains."""

    file: str
    bytes: int
    schema: str
    runs: int
    unfinished: int  # live runs that the agent can continue
    newest: str  # id of the run that started last; empty without runs
    events: int  # in the journals
    archived: int  # journals that were archived; their files are not part of a backup


def back_up(source: Path, target: Path, progress: PageProgress | None = None) -> StoreContents:
    """Copy the committed state of the store `source` to the new file `target`, and check the copy.

    The copy is a snapshot of one moment; other processes may write to the source meanwhile. `target` appears
    only when it is complete and synced to the disk.

    Raises UsageError if `target` exists, and StoreError if copying fails or the copy is damaged.
    """
    if target.exists():
        raise UsageError(f"{target} exists", hint="name a new file; a backup replaces nothing")
    if not source.is_file():
        raise StoreError(f"{source}: there is no such store", hint="name it in store.url")
    remove_abandoned(source.parent)
    with _unfinished_file(target) as unfinished:
        _copy(source, unfinished, progress)
        contents = inspect_backup(unfinished)
        try:
            os.link(
                unfinished, target
            )  # unlike a rename, it never replaces a file that has appeared meanwhile
        except FileExistsError:
            raise UsageError(f"{target} exists", hint="name a new file; a backup replaces nothing") from None
        _sync_folder(target.parent)
    return msgspec.structs.replace(contents, file=str(target))


def inspect_backup(file: Path) -> StoreContents:
    """Check a backup and return its contents.

    Raises StoreError if it isn't a store, or if a page, an index or a reference in it is damaged.
    """
    if not file.is_file():
        raise StoreError(f"{file}: there is no such file")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            check_integrity(connection, str(file))
            return _read_contents(connection, file)
    except sqlite3.Error as error:
        hint = "it is not a store of Tapewire, or damaged; take another copy"
        raise StoreError(f"{file}: {error}", hint=hint) from error


def check_integrity(connection: sqlite3.Connection, name: str) -> None:
    """Raise StoreError for the first damage that SQLite finds in pages, indexes and references."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise StoreError(f"{name} is damaged: {'; '.join(found)}", hint="take another copy")
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    if orphan:
        message = f"{name} is damaged: a row of {orphan[0]} belongs to no row of {orphan[2]}"
        raise StoreError(message, hint="take another copy")


def restore_backup(
    backup: Path, store: Path, progress: PageProgress | None = None
) -> tuple[StoreContents, Path | None]:
    """Replace `store` by a copy of `backup`; return its contents and the path where the old store was kept.

    The copy is made and checked first, and at each moment either the old store or the copy is in place. The
    caller must hold the agent's lock. Raises SafetyError if the store is in use, otherwise like `back_up`.
    """
    if not backup.is_file():
        raise UsageError(f"{backup}: there is no such file", hint="name a copy made by `tapewire db backup`")
    with _unfinished_file(store) as unfinished:
        _copy(backup, unfinished, progress)
        contents = inspect_backup(unfinished)
        check_not_newer(contents.schema, str(backup))
        kept = _set_aside(store)
        _mark_restored(backup, unfinished, store)  # first, so that an interrupted restore is also detected
        unfinished.replace(store)
        _sync_folder(store.parent)
    return msgspec.structs.replace(contents, file=str(store)), kept


def _mark_restored(backup: Path, copy: Path, store: Path) -> None:
    """Record in the commit mark that the store is a backup, which may lack committed events."""
    path = mark_beside(store)
    mark: CommitMark | None = None
    with suppress(StoreError):  # an unreadable mark is replaced
        mark = read_mark(path)
    if mark is None or not mark.run:
        newest = "SELECT id FROM runs WHERE kind = 'live' ORDER BY started_at DESC, id DESC LIMIT 1"
        with closing(_open_read_only(copy)) as connection:
            run = connection.execute(newest).fetchone()
        if run is None:
            return
        mark = CommitMark(run[0], UNKNOWN_SEQ)
    made = datetime.fromtimestamp(backup.stat().st_mtime, UTC)
    restored = f"from a backup of {made:%Y-%m-%dT%H:%M:%SZ} ({backup.name[:40]})"
    file = CommitMarkFile(path, sync_every=0)
    file.write(msgspec.structs.replace(mark, restored=restored))
    file.close()
    if file.error:
        raise StoreError(f"{path} can't be written: {file.error}", hint=_SPACE_HINT)


def _set_aside(store: Path) -> Path | None:
    """Give the store a second name, under which it is kept."""
    if not store.exists():
        return None
    with suppress(sqlite3.DatabaseError):  # a damaged store is kept as it is
        _checkpoint(store)
    kept = store.with_name(f"{store.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.backup")
    try:
        os.link(store, kept)
        for suffix in SIDE_FILES:
            side = store.with_name(store.name + suffix)
            if side.exists():
                side.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise StoreError(f"{store} can't be set aside: {error.strerror}", hint=_SPACE_HINT) from None
    return kept


def _checkpoint(store: Path) -> None:
    """Move the write-ahead log into the file. This fails if another process has the file open."""
    with closing(sqlite3.connect(store, timeout=_BUSY_MS / 1000, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                hint = "end it first: the agent, a report, a dashboard"
                raise SafetyError(f"{store} is open in another process", hint=hint) from None
            raise


def _copy(source: Path, target: Path, progress: PageProgress | None) -> None:
    """Copy page by page within one transaction, so that writers don't wait and don't restart the copy."""

    def report(_: int, remaining: int, total: int) -> None:
        if progress:
            progress(total - remaining, total)

    try:
        with closing(_open_read_only(source)) as reading, closing(sqlite3.connect(target)) as writing:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
            reading.backup(writing, pages=PAGES, progress=report, sleep=0)
            # A single file, which can be read on a read-only file system
            writing.execute("PRAGMA journal_mode=DELETE").fetchone()
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except sqlite3.Error as error:
        message = f"{source} can't be copied to {target.parent}: {error}"
        raise StoreError(message, hint="check both, and free space") from error


def _open_read_only(source: Path) -> sqlite3.Connection:
    uri = f"{source.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)


@contextmanager
def _unfinished_file(target: Path) -> Iterator[Path]:
    """Like `unfinished_copy`, but raises StoreError."""
    try:
        with unfinished_copy(target) as unfinished:
            yield unfinished
    except OSError as error:
        raise StoreError(f"{target} can't be written: {error.strerror or error}", hint=_SPACE_HINT) from error


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a new file's name is durable only after that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_contents(connection: sqlite3.Connection, file: Path) -> StoreContents:
    def one(query: str) -> Any:
        return connection.execute(query).fetchone()[0]

    has_archives = one("SELECT count(*) FROM sqlite_master WHERE name = 'archives'")  # since schema 0005
    return StoreContents(
        file=str(file),
        bytes=file.stat().st_size,
        schema=one("SELECT version_num FROM alembic_version"),
        runs=one("SELECT count(*) FROM runs"),
        unfinished=one("SELECT count(*) FROM runs WHERE kind = 'live' AND status <> 'complete'"),
        newest=one("SELECT coalesce((SELECT id FROM runs ORDER BY started_at DESC, id DESC LIMIT 1), '')"),
        events=one("SELECT count(*) FROM journal"),
        archived=one("SELECT count(*) FROM archives") if has_archives else 0,
    )
