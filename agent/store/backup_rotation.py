"""Nightly backups: one copy of the store per night, fewer of the older copies, and each archive once.

Archives of journals never change, so each is stored only once in the backup folder: as a hard link if both
are on the same file system, otherwise as a copy. A copy of the store names the archives that belong to it.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.config.control import BackupConfig
from agent.core.errors import DataError, StoreError
from agent.data.columns import content_hash
from agent.store.backup import PageProgress, StoreContents, back_up

ARCHIVES: Final = "archives"
"""Name of the folder for archives, beside the copies."""

_NAME: Final = re.compile(r"\d{8}T\d{6}Z\.db")
_STAMP: Final = "%Y%m%dT%H%M%SZ.db"


class ArchiveFile(NamedTuple):
    """An archive that a store refers to."""

    path: str
    sha256: str


class BackupResult(msgspec.Struct, frozen=True):
    """Result of one nightly backup."""

    holds: StoreContents
    added: int  # archives that are new in the backup folder
    missing: tuple[str, ...]  # archives that the store refers to, but that were not found
    removed: tuple[str, ...]  # old copies that were removed


def rotate(
    source: Path, folder: Path, policy: BackupConfig, now: datetime, progress: PageProgress | None = None
) -> BackupResult:
    """Back up the store `source` and its archives to `folder`, then remove old copies. Raises like `back_up`.

    Copies are named by their time in UTC. Other files in the folder are not touched.
    """
    contents = back_up(source, folder / now.astimezone(UTC).strftime(_STAMP), progress)
    added, missing = 0, []
    for archive in archive_files(Path(contents.file)):
        place = folder / ARCHIVES / Path(archive.path).name
        if place.is_file():
            continue
        if Path(archive.path).is_file():
            link_archive(Path(archive.path), place, archive.sha256)
            added += 1
        else:
            missing.append(archive.path)
    removed = remove_old_copies(folder, policy)
    return BackupResult(contents, added, tuple(missing), tuple(str(path) for path in removed))


def archive_files(store: Path) -> list[ArchiveFile]:
    """List the archives that a store refers to. Raises StoreError if the store can't be read."""
    try:
        with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            return [
                ArchiveFile(*row)
                for table in sorted(names & {"archives", "segments"})
                for row in connection.execute(f"SELECT path, sha256 FROM {table}")
            ]
    except sqlite3.Error as error:
        raise StoreError(f"{store}: {error}") from error


def link_archive(source: Path, place: Path, sha256: str) -> None:
    """Hard-link the archive `source` to `place`, or copy it. Raises StoreError if its hash differs."""
    unfinished = place.with_name(f".{place.name}.unfinished")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        try:
            os.link(source, unfinished)
        except OSError:
            shutil.copy2(source, unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
        if content_hash(unfinished) != sha256:
            raise StoreError(
                f"{source}, a journal archive, has changed", hint=f"it was SHA-256 {sha256}; restore it"
            )
        unfinished.replace(place)
    except (OSError, DataError) as error:
        raise StoreError(
            f"{place} can't be written: {error}", hint="check free space and permissions"
        ) from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def restore_archives(store: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Restore from `folder` the archives that a restored store refers to and that are missing.

    Returns the restored archives and those that are still missing. Raises StoreError if one doesn't match its
    hash.
    """
    restored, missing = [], []
    for archive in archive_files(store):
        place = Path(archive.path)
        kept = folder / place.name
        if place.is_file():
            continue
        if kept.is_file():
            link_archive(kept, place, archive.sha256)
            restored.append(place)
        else:
            missing.append(archive.path)
    return restored, missing


def remove_old_copies(folder: Path, policy: BackupConfig) -> list[Path]:
    """Remove the copies that the policy doesn't keep; return their paths. The newest copy is always kept."""
    copies = {
        datetime.strptime(path.name, _STAMP).replace(tzinfo=UTC): path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name)
    }
    kept = select_kept(list(copies), policy)
    removed = [path for at, path in sorted(copies.items()) if at not in kept]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def select_kept(times: list[datetime], policy: BackupConfig) -> set[datetime]:
    """Select the copies to keep: the newest of each of the last days, weeks (from Monday) and months."""
    newest_first = sorted(times, reverse=True)
    kept = set(newest_first[:1])
    for number, key in (
        (policy.daily, lambda at: at.date()),
        (policy.weekly, lambda at: at.date() - timedelta(days=at.weekday())),
        (policy.monthly, lambda at: (at.year, at.month)),
    ):
        periods: dict[object, datetime] = {}
        for at in newest_first:
            periods.setdefault(key(at), at)
        kept |= set(list(periods.values())[:number])
    return kept
