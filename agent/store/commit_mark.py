"""Commit mark: the number of events that a live run has committed, in a file outside the store.

The store alone can't show that commits are missing: SQLite treats a truncated or damaged write-ahead log as
one that ends earlier, and a restored backup is an earlier state too.
"""

from __future__ import annotations

import os
import time
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.core.errors import StoreError
from agent.store.private_files import make_private_folder, open_private

SUFFIX: Final = ".mark"
"""Suffix that is appended to the store's file name."""

SYNC_EVERY: Final = 1.0
"""Minimum interval between two syncs of the mark to the disk, in seconds."""

UNKNOWN_SEQ: Final = -1
"""Placeholder for an unknown number of events."""

_SLOT: Final = 512  # bytes: a write is one sector; two slots are written alternately
_CHECK: Final = 16  # characters of the checksum, which precedes the content
_TEXT: Final = 80  # maximum characters of `restored`, so that a mark fits its slot


class CommitMark(msgspec.Struct, frozen=True):
    """What the last live run has committed."""

    run: str = ""
    seq: int = 0  # of the last event in its journal
    digest: str = ""  # hex, of the journal up to this event; empty if unknown
    decisions: int = 0
    head: str = ""  # hex, of the chain of decisions
    restored: str = ""  # when the store was since replaced by a backup, and by which one
    write: int = 0  # number of the write; the slot with the higher number is the newer one


def mark_beside(store: Path) -> Path:
    """Return the path of an SQLite store's commit mark."""
    return store.resolve().with_name(store.resolve().name + SUFFIX)


def read_mark(path: Path) -> CommitMark | None:
    """Read the newest valid slot; None if the file is missing or blank.

    Raises StoreError if the file can't be read or has no valid slot.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        hint = "give this user permission to read it"
        raise StoreError(f"{path} can't be read: {error.strerror}", hint=hint) from None
    found = [mark for start in (0, _SLOT) if (mark := _decode(content[start : start + _SLOT])) is not None]
    if not found and content.strip(b"\0"):
        message = f"{path} is damaged: how many events were committed is not known"
        raise StoreError(message, hint="remove it to continue without it")
    return max(found, key=lambda mark: mark.write, default=None)


class CommitMarkFile:
    """Writer of the commit mark. A failed write is counted and logged, and does not stop the agent.

    A write survives the end of the process immediately, and a power cut after at most `sync_every` seconds
    (0: sync on each write). A store that syncs its commits loses none in a power cut; the mark detects the
    losses that syncing does not prevent.
    """

    def __init__(self, path: Path, *, sync_every: float = SYNC_EVERY) -> None:
        self.path = path
        self.held = False
        """If True, writes are deferred until `release`: the existing mark has not been handled yet."""
        self._deferred: CommitMark | None = None  # the newest mark, while `held`
        self.failures = 0
        """Number of failed writes."""
        self.error = ""
        """Error of the last write; empty if it succeeded."""
        self._sync_every = sync_every
        self._synced_at = -inf  # monotonic clock
        self._file: Any = None
        self._writes = 0

    def write(self, mark: CommitMark) -> None:
        """Write `mark` over the older of the two slots."""
        if self.held:
            self._deferred = mark
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
                import structlog  # only here: it takes longer to import than the store to open

                log = structlog.get_logger(__name__)
                log.warning("the commit mark can't be written", file=str(self.path), reason=error.strerror)
            self.error = error.strerror or str(error)
            self.close()
            return
        self._writes += 1
        self.error = ""

    def release(self) -> None:
        """Replace the existing mark, which has now been handled, with the newest one."""
        self.held = False
        if self._deferred is not None:
            self.write(self._deferred)
            self._deferred = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        make_private_folder(self.path.parent)
        self._file = open_private(self.path)
        try:
            before = read_mark(self.path)
        except StoreError:  # already reported when the run was opened
            before = None
        self._writes = before.write if before is not None else 0
        if os.fstat(self._file.fileno()).st_size < 2 * _SLOT:
            os.ftruncate(self._file.fileno(), 2 * _SLOT)


def _encode(mark: CommitMark) -> bytes:
    content = msgspec.json.encode(msgspec.structs.replace(mark, restored=mark.restored[:_TEXT]))
    return (_checksum(content) + content).ljust(_SLOT - 1) + b"\n"


def _decode(slot: bytes) -> CommitMark | None:
    content = slot[_CHECK:].strip()
    if not content or slot[:_CHECK] != _checksum(content):
        return None
    try:
        return msgspec.json.decode(content, type=CommitMark)
    except msgspec.DecodeError:
        return None


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECK // 2).hexdigest().encode()
