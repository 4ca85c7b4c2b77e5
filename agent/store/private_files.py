"""Files that only their owner may read, whatever the umask is, and unfinished copies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700

SIDE_FILES: Final = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database file."""

_UNFINISHED: Final = ".unfinished"
_ABANDONED_S: Final = 60.0


def make_private_folder(folder: Path) -> None:
    """Create `folder` and its missing parents with mode 0700; folders that exist keep their mode.

    Raises OSError.
    """
    for missing in reversed([folder, *folder.parents]):
        if not missing.is_dir():
            missing.mkdir(PRIVATE_FOLDER, exist_ok=True)


def open_private(path: Path) -> IO[bytes]:
    """Open a file for reading and writing; create it with mode 0600 if it is missing. Raises OSError."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE), "r+b", buffering=0)


@contextmanager
def unfinished_copy(target: Path) -> Iterator[Path]:
    """Yield an empty private file beside `target`, to be filled and renamed; remove it on exit.

    The file is locked, so `remove_abandoned` in another process does not delete it. Raises OSError.
    """
    make_private_folder(target.parent)
    remove_abandoned(target.parent)
    unfinished = target.with_name(f".{target.name}{_UNFINISHED}")
    _remove(unfinished)
    with open_private(unfinished) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield unfinished
        finally:
            _remove(unfinished)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the unfinished copies that ended processes left in `folder`; return their paths.

    A copy is abandoned if no process holds its lock and it was not written to for a minute.
    """
    removed = []
    with suppress(OSError):
        for path in folder.glob(f".*{_UNFINISHED}"):
            with suppress(OSError):
                if path.is_symlink() or time.time() - path.stat().st_mtime < _ABANDONED_S:
                    continue
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
                removed.append(path)
    return removed


def _remove(unfinished: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        with suppress(OSError):
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
