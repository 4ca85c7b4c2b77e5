"""Copies of an SQLite store: made while it is in use, looked through before anybody relies on them, and put back."""

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
from agent.store.files import SIDE_FILES, remove_abandoned, unfinished_copy
from agent.store.mark import UNKNOWN_SEQ, Mark, MarkFile, mark_beside, read_mark
from agent.store.schema import check_known

PAGES: Final = 2_000
"""Copied between two words of progress: 8 MB of a store with the usual pages."""

_BUSY_MS: Final = 2_000

Progress = Callable[[int, int], None]
"""Hears how many of how many pages are done."""


class Holding(msgspec.Struct, frozen=True):
    """What a sound copy holds."""

    file: str
    bytes: int
    schema: str
    runs: int
    unfinished: int  # of those, live ones that the agent may go on with
    newest: str  # id of the run that began last; empty: none
    events: int  # in the journals
    archived: int  # journals that were moved to archives, which no copy holds


def back_up(source: Path, target: Path, progress: Progress | None = None) -> Holding:
    """Copy what is committed of the store `source` to the new file `target`, and look the copy through.

    The source may be written meanwhile: the copy is of one moment. `target` appears when it is whole and forced to disk.
    Raises UsageError where `target` exists, StoreError where either file can't be used or the copy isn't sound.
    """
    if target.exists():
        raise UsageError(f"{target} exists", hint="name a new file; a backup replaces nothing")
    if not source.is_file():
        raise StoreError(f"{source}: there is no such store", hint="name it in store.url")
    remove_abandoned(source.parent)
    with _beside(target) as unfinished:
        _copy(source, unfinished, progress)
        holding = look_through(unfinished)
        try:
            os.link(unfinished, target)  # unlike a rename, it replaces nothing that came meanwhile
        except FileExistsError:
            raise UsageError(f"{target} exists", hint="name a new file; a backup replaces nothing") from None
        _sync_folder(target.parent)
    return msgspec.structs.replace(holding, file=str(target))


def look_through(file: Path) -> Holding:
    """What a copy holds. Raises StoreError where it isn't a store, or any page, index or reference in it is damaged."""
    if not file.is_file():
        raise StoreError(f"{file}: there is no such file")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            check_integrity(connection, str(file))
            return _holding(connection, file)
    except sqlite3.Error as error:
        raise StoreError(
            f"{file}: {error}", hint="it is no store of Tapewire, or damaged; take another copy"
        ) from error


def check_integrity(connection: sqlite3.Connection, name: str) -> None:
    """Raises StoreError with the first that SQLite finds wrong in pages, indexes and references, as `connection` sees them."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise StoreError(f"{name} is damaged: {'; '.join(found)}", hint="take another copy")
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    if orphan:
        raise StoreError(
            f"{name} is damaged: a row of {orphan[0]} belongs to no row of {orphan[2]}",
            hint="take another copy",
        )


def put_back(backup: Path, store: Path, progress: Progress | None = None) -> tuple[Holding, Path | None]:
    """Let a copy of `backup` take the place of `store`; returns what it holds, and where the old store was put.

    The copy is made and looked through first; there is no moment at which neither is there. The caller holds the agent's
    lock. Raises SafetyError where the store is in use, StoreError like `back_up`.
    """
    if not backup.is_file():
        raise UsageError(f"{backup}: there is no such file", hint="name what `tapewire db backup` wrote")
    with _beside(store) as unfinished:
        _copy(backup, unfinished, progress)
        holding = look_through(unfinished)
        check_known(holding.schema, str(backup))
        kept = _set_aside(store)
        # before the store: a restore that ends in between is noticed too
        _note_restore(backup, unfinished, store)
        unfinished.replace(store)
        _sync_folder(store.parent)
    return msgspec.structs.replace(holding, file=str(store)), kept


def _note_restore(backup: Path, copy: Path, store: Path) -> None:
    """Let the mark beside the store say that what follows is a backup, which may lack what a live run had committed."""
    path = mark_beside(store)
    mark: Mark | None = None
    with suppress(StoreError):  # one that can't be read is replaced
        mark = read_mark(path)
    if mark is None or not mark.run:
        newest = "SELECT id FROM runs WHERE kind = 'live' ORDER BY started_at DESC, id DESC LIMIT 1"
        with closing(_reading(copy)) as connection:
            run = connection.execute(newest).fetchone()
        if run is None:
            return
        mark = Mark(run[0], UNKNOWN_SEQ)
    made = datetime.fromtimestamp(backup.stat().st_mtime, UTC)
    file = MarkFile(path, sync_every=0)
    file.write(
        msgspec.structs.replace(
            mark, restored=f"from a backup of {made:%Y-%m-%dT%H:%M:%SZ} ({backup.name[:40]})"
        )
    )
    file.close()
    if file.error:
        raise StoreError(f"{path} can't be written: {file.error}", hint="check free space and rights")


def _set_aside(store: Path) -> Path | None:
    """Give the store a second name, under which it stays."""
    if not store.exists():
        return None
    with suppress(sqlite3.DatabaseError):  # one that is damaged is put aside as it is
        _fold_log(store)
    kept = store.with_name(f"{store.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.backup")
    try:
        os.link(store, kept)
        for suffix in SIDE_FILES:
            side = store.with_name(store.name + suffix)
            if side.exists():
                side.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise StoreError(
            f"{store} can't be put aside: {error.strerror}", hint="check free space and rights"
        ) from None
    return kept


def _fold_log(store: Path) -> None:
    """Bring the write-ahead log into the file; leaving that mode needs the file alone, so it shows who else has it open."""
    with closing(sqlite3.connect(store, timeout=_BUSY_MS / 1000, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise SafetyError(
                    f"{store} is open in another process",
                    hint="end it first: the agent, a report, a dashboard",
                ) from None
            raise


def _copy(source: Path, target: Path, progress: Progress | None) -> None:
    """Page by page; a transaction holds the moment, so that writers neither wait nor make it begin anew."""

    def tell(_: int, remaining: int, total: int) -> None:
        if progress:
            progress(total - remaining, total)

    try:
        with closing(_reading(source)) as reading, closing(sqlite3.connect(target)) as writing:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
            reading.backup(writing, pages=PAGES, progress=tell, sleep=0)
            # one file, which can be read where nothing can be written
            writing.execute("PRAGMA journal_mode=DELETE").fetchone()
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except sqlite3.Error as error:
        raise StoreError(
            f"{source} can't be copied to {target.parent}: {error}", hint="check both, and free space"
        ) from error


def _reading(source: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None
    )


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A file to be finished in the folder of `target`; what is left of it at the end is removed."""
    try:
        with unfinished_copy(target) as unfinished:
            yield unfinished
    except OSError as error:
        raise StoreError(
            f"{target} can't be written: {error.strerror or error}", hint="check free space and rights"
        ) from error


def _sync_folder(folder: Path) -> None:
    """A name is safe once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holding(connection: sqlite3.Connection, file: Path) -> Holding:
    def one(query: str) -> Any:
        return connection.execute(query).fetchone()[0]

    archived = one("SELECT count(*) FROM sqlite_master WHERE name = 'archives'")  # older schemas have none
    return Holding(
        file=str(file),
        bytes=file.stat().st_size,
        schema=one("SELECT version_num FROM alembic_version"),
        runs=one("SELECT count(*) FROM runs"),
        unfinished=one("SELECT count(*) FROM runs WHERE kind = 'live' AND status <> 'complete'"),
        newest=one("SELECT coalesce((SELECT id FROM runs ORDER BY started_at DESC, id DESC LIMIT 1), '')"),
        events=one("SELECT count(*) FROM journal"),
        archived=one("SELECT count(*) FROM archives") if archived else 0,
    )
