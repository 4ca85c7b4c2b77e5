"""Which files a strategy opens while it decides: its world is what the engine shows it, and a file may hold the future."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

_SYSTEM = (sys.prefix, sys.base_prefix, "/usr/share/", "/etc/", "/proc/", "/sys/", "/dev/")
"""Where files lie that libraries open for themselves: time zones, their own data."""


class Opened(msgspec.Struct, frozen=True):
    """A file that was opened by the strategy's code, or by what that called; `line` is the strategy's own."""

    path: str
    line: int


class _Watch:
    """One hook a process, as hooks can't be taken away; it looks only while somebody watches."""

    def __init__(self) -> None:
        self.installed = False
        self.source: str | None = None
        self.found: dict[tuple[str, int], Opened] = {}

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if (
            self.source is None
            or event not in ("open", "sqlite3.connect")
            or not isinstance(args[0], str | bytes)
        ):
            return
        path = os.fsdecode(args[0])
        line = None if path.startswith(_SYSTEM) else _line_in(self.source, sys._getframe(1))
        if line is not None:
            opened = Opened(path, line)
            self.found.setdefault((opened.path, line), opened)


_WATCH = _Watch()


@contextmanager
def watching(strategy: type) -> Iterator[list[Opened]]:
    """Yields a list that holds, after the block, what code of the strategy's module opened in it.

    Sees what goes through Python (`open`, pandas' CSV reader, numpy, sqlite3), not what a library opens by itself (Arrow's files).
    Modules that are imported don't count.
    """
    if not _WATCH.installed:
        sys.addaudithook(_WATCH)
        _WATCH.installed = True
    found: list[Opened] = []
    _WATCH.found.clear()
    _WATCH.source = sys.modules[strategy.__module__].__file__
    try:
        yield found
    finally:
        _WATCH.source = None
        found.extend(_WATCH.found.values())


def same_file(path: str, files: list[Path]) -> bool:
    """Whether `path` is one of `files`."""
    return any(Path(path).exists() and file.exists() and Path(path).samefile(file) for file in files)


def _line_in(source: str, frame: FrameType | None) -> int | None:
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return None
        if name == source:
            return frame.f_lineno
        frame = frame.f_back
    return None
