"""Atomic replacement of files and folders: written beside their destination, forced to disk, then renamed.

A process that is killed at any moment leaves the old content or the new content, never a mixture. Replacing a
folder takes two renames; between them the old folder has the name that `_replaced` returns, and `settled`
finds it there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from agent.core.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def replaced_file(path: Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file for writing that replaces `path` if the block ends without an error.

    `mode` applies if `path` doesn't exist yet. Raises StoreError if the file can't be written; `path` is then
    unchanged.
    """
    path = path.resolve()
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe can't be replaced
            with path.open("wb") as file:
                yield file
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.unlink(missing_ok=True)
            with open(unfinished, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, unfinished)
            unfinished.replace(path)
            _sync(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `path` atomically. Raises StoreError if that fails."""
    with replaced_file(path) as file:
        file.write(content)


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, mode: int = 0o666) -> None:
    """Write `tables` to the parquet file `path` atomically, one or more row groups each.

    Takes `mode` and raises as `replaced_file`.
    """
    import pyarrow.parquet as pq

    with replaced_file(path, mode=mode) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


@contextmanager
def replaced_folder(folder: Path, *, keep: Callable[[str], bool] = lambda _: False) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` if the block ends without an error.

    Entries of the old folder that `keep` accepts by name and that the new one lacks are copied to the new
    one. Raises StoreError if it can't be written; `folder` is then unchanged.
    """
    folder = folder.resolve()
    unfinished, replaced = folder.with_name(f".{folder.name}.unfinished"), _replaced(folder)
    try:
        old = settled(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            if old.is_dir():
                _keep_entries(old, unfinished, keep)
                shutil.copymode(old, unfinished)
            for path in unfinished.rglob("*"):
                if path.is_dir() or (path.is_file() and not path.is_symlink()):
                    _sync(path)
            _sync(unfinished)
            if folder.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                folder.rename(replaced)
            unfinished.rename(folder)
            _sync(folder.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        if not folder.exists() and replaced.exists():
            replaced.rename(folder)
        raise _not_written(folder, error) from None


def settled(folder: Path) -> Path:
    """Return `folder`, or the old one if a process was killed between the two renames."""
    try:
        place = folder.resolve()
        if place.name and not place.exists() and (replaced := _replaced(place)).is_dir():
            return replaced
    except ValueError:  # an invalid path, e.g. with a NUL byte: opening it reports the error
        pass
    return folder


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _keep_entries(old: Path, new: Path, keep: Callable[[str], bool]) -> None:
    for entry in old.iterdir():
        target = new / entry.name
        if not keep(entry.name) or target.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True)
        else:
            shutil.copy2(entry, target, follow_symlinks=False)


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} can't be written: {error.strerror or error}", hint="check free space and rights"
    )
