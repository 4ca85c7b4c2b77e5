"""How far a live run was recorded, kept apart from the store, so that a truncated record is detected.

SQLite treats a truncated or damaged write-ahead log as one that ends earlier, and a restored backup is an earlier state
too: the store alone can't show what is missing.
"""

from __future__ import annotations

import os
import time
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from agent.core.errors import StoreError
from agent.store.files import make_private_folder, open_private

SUFFIX: Final = ".mark"
"""Appended to the store's file name."""

SYNC_EVERY: Final = 1.0
"""Seconds between two marks that are forced to the disk."""

UNKNOWN_SEQ: Final = -1
"""Stands for a number of events that can't be known."""

_SLOT: Final = 512  # bytes, so that a write is one sector; two slots are written in turn
_CHECK: Final = 16  # characters of the checksum before the content
_TEXT: Final = 80  # characters of `restored`, so that a mark fits its slot
_log: Final = structlog.get_logger(__name__)


class Mark(msgspec.Struct, frozen=True):
    """What was committed of the live run that wrote last."""

    run: str = ""
    seq: int = 0  # of the last event in its journal
    digest: str = ""  # hex, of the journal up to this event; empty: not known
    decisions: int = 0
    head: str = ""  # hex, of the chain of decisions
    restored: str = ""  # when the store was replaced by a backup since, and by which
    write: int = 0  # the slot with the higher number is the later one


def mark_beside(store: Path) -> Path:
    """Path of the mark of an SQLite store."""
    return store.resolve().with_name(store.resolve().name + SUFFIX)


def read_mark(path: Path) -> Mark | None:
    """The newest valid slot; None if the file is missing or blank. Raises StoreError if it can't be read or has no valid slot."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(
            f"{path} can't be read: {error.strerror}", hint="give this user the right to read it"
        ) from None
    found = [mark for start in (0, _SLOT) if (mark := _decode(content[start : start + _SLOT])) is not None]
    if not found and content.strip(b"\0"):
        raise StoreError(
            f"{path} is damaged: how far the run was recorded is not known", hint="remove it to go on without"
        )
    return max(found, key=lambda mark: mark.write, default=None)


class MarkFile:
    """Writes the mark. A write that fails is counted and logged, and stops nothing.

    A write survives the death of the process at once, and a power cut after at most `sync_every` seconds: 0 waits for the disk each time.
    A store that syncs its commits loses none in a power cut; the mark is for what no sync prevents.
    """

    def __init__(self, path: Path, *, sync_every: float = SYNC_EVERY) -> None:
        self.path = path
        self.held = False
        """Whether nothing is written yet: the mark that is there has still to be dealt with. See `release`."""
        self._waits: Mark | None = None  # the latest, while it is held
        self.failures = 0
        """Writes that failed so far."""
        self.error = ""
        """Of the last write; empty if it succeeded."""
        self._sync_every = sync_every
        self._synced_at = -inf  # of the monotonic clock
        self._file: Any = None
        self._writes = 0

    def write(self, mark: Mark) -> None:
        """Replace the older of the two slots."""
        if self.held:
            self._waits = mark
            return
        try:
            if self._file is None:
                self._open()
            content = _encode(msgspec.structs.replace(mark, write=self._writes + 1))
            os.pwrite(self._file.fileno(), content, (self._writes + 1) % 2 * _SLOT)
            if (now := time.monotonic()) - self._synced_at >= self._sync_every:
                os.fdatasync(self._file.fileno())
                self._synced_at = now
        except OSError as error:
            self.failures += 1
            if not self.error:
                _log.warning(
                    "the mark beside the store can't be written", file=str(self.path), reason=error.strerror
                )
            self.error = error.strerror or str(error)
            self.close()
            return
        self._writes += 1
        self.error = ""

    def release(self) -> None:
        """The existing mark has been handled: replace it with the latest."""
        self.held = False
        if self._waits is not None:
            self.write(self._waits)
            self._waits = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        make_private_folder(self.path.parent)
        self._file = open_private(self.path)
        try:
            before = read_mark(self.path)
        except StoreError:  # it was reported when the run was opened
            before = None
        self._writes = before.write if before is not None else 0
        if os.fstat(self._file.fileno()).st_size < 2 * _SLOT:
            os.ftruncate(self._file.fileno(), 2 * _SLOT)


def _encode(mark: Mark) -> bytes:
    content = msgspec.json.encode(msgspec.structs.replace(mark, restored=mark.restored[:_TEXT]))
    return (_checksum(content) + content).ljust(_SLOT - 1) + b"\n"


def _decode(slot: bytes) -> Mark | None:
    content = slot[_CHECK:].strip()
    if not content or slot[:_CHECK] != _checksum(content):
        return None
    try:
        return msgspec.json.decode(content, type=Mark)
    except msgspec.DecodeError:
        return None


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECK // 2).hexdigest().encode()
