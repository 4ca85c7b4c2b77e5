"""The data files that jobs may read, by names without the machine's paths: `klines/BTCUSDT-1m.parquet`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from agent.config.services import SAMPLE_FOLDER
from agent.core.errors import UsageError, did_you_mean
from agent.system.resources import resource

SUFFIXES: Final = ("parquet", "pq", "csv", "jsonl", "ndjson")
"""Kinds of files; all but Parquet also with .gz."""

MAX_FILES: Final = 1_000
"""Most files of all folders that are listed."""

_MAX_DEPTH: Final = 3  # folders inside a folder
_MAX_NAME: Final = 300


class DataFile(NamedTuple):
    """A file: its name, its path, its size in bytes, and when it was changed (ns)."""

    name: str
    path: Path
    size: int
    changed: int


class DataFolders:
    """The folders of `jobs.data`, each called by its last part, and the sample data."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._first = Path(folders[0])
        self._folders: Mapping[str, Path] = {Path(one).name: Path(one) for one in folders} | {
            SAMPLE_FOLDER: resource("sample_data")
        }

    def files(self) -> tuple[list[DataFile], int]:
        """List the files by name, and count those that are left out beyond `MAX_FILES`."""
        found = [
            DataFile(f"{name}/{path.relative_to(folder).as_posix()}", path, facts.st_size, facts.st_mtime_ns)
            for name, folder in self._folders.items()
            for path, facts in _walk(folder, _MAX_DEPTH)
        ]
        found.sort()
        return found[:MAX_FILES], max(len(found) - MAX_FILES, 0)

    def find(self, name: str) -> Path:
        """Return the path of a file. Raises UsageError unless it is a data file in one of the folders.

        A link is refused, also one in the middle of the path: it could lead out of the folder.
        """
        folder, *parts = name.split("/")
        where = self._folders.get(folder)
        wrong = len(name) > _MAX_NAME or not name.isprintable() or not parts or len(parts) > _MAX_DEPTH + 1
        if where is None or wrong or any(not part or part.startswith(".") or "\\" in part for part in parts):
            raise UsageError(
                f"{name[:_MAX_NAME]!r} is no data file that jobs may read",
                hint=f"name it FOLDER/FILE, with a folder of {', '.join(self._folders)}",
            )
        if not _is_data(parts[-1]):
            raise UsageError(
                f"{name}: unknown kind of file",
                hint=f"accepted are {', '.join('.' + one for one in SUFFIXES)}",
            )
        path = where
        for number, part in enumerate(parts, 1):
            path /= part
            try:
                mode = path.lstat().st_mode
            except OSError:
                known = [one.name for one in self.files()[0]]
                raise UsageError(
                    f"no such data file: {name}",
                    hint=did_you_mean(name, known, "GET /api/v1/data lists them"),
                ) from None
            if stat.S_ISLNK(mode):
                raise UsageError(f"{name}: a link is not followed", hint="copy the file into the folder")
            if not (stat.S_ISREG(mode) if number == len(parts) else stat.S_ISDIR(mode)):
                raise UsageError(f"{name} is not a file")
        return path.absolute()

    def output(self, file: str, *, new: bool) -> Path:
        """Return where a job writes `file`, in the first folder. Raises UsageError for another kind of file,
        or one that is there already if it has to be `new`.
        """
        path = self._first / file
        if "/" in file or not _is_data(file):
            raise UsageError(f"{file!r} is no name of a data file")
        if path.is_symlink() or (path.exists() and (new or not path.is_file())):
            raise UsageError(f"{self.name_of(path)} is there already", hint="choose another name")
        return path.absolute()

    def name_of(self, path: Path) -> str:
        """Return the name of a file in the first folder."""
        return f"{self._first.name}/{path.name}"


def _is_data(file: str) -> bool:
    stem, _, suffix = file.lower().removesuffix(".gz").rpartition(".")
    packed = file.lower().endswith(".gz")
    return bool(stem) and not file.startswith(".") and suffix in SUFFIXES[2 if packed else 0 :]


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the data files below `folder`; links and folders that can't be read are passed over."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_file(follow_symlinks=False) and _is_data(entry.name):
                yield Path(entry.path), entry.stat(follow_symlinks=False)
            elif depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _walk(Path(entry.path), depth - 1)
        except OSError:
            continue
