"""Standard output and error that never block or end the agent.

A thread writes them from a bounded queue. Text that doesn't fit into it or can't be written (full disk,
closed pipe) is dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, TextIO

from agent.live.interfaces.status import OutputStatus

CAPACITY: Final = 4 << 20
"""Characters that may be queued for one stream."""

_LONGEST: Final = 256 << 10  # characters of one write; the rest is cut off
_FLUSH: Final = 2.0  # seconds to write queued text at the end
_SLOW: Final = 2.0  # seconds after which a write counts as stuck
_PAUSE: Final = 0.1  # seconds after a write that failed


def plain_notice(lost: int, reason: str) -> str:
    """Format the notice of lost lines."""
    return f"tapewire: {lost} lines of output were lost: {reason}\n"


class OutputWriter:
    """Writes to a file descriptor in a daemon thread. `write` accepts text from any thread and never
    blocks.
    """

    def __init__(self, descriptor: int, *, capacity: int = CAPACITY) -> None:
        self.notice: Callable[[int, str], str] = plain_notice
        self._descriptor = descriptor
        self._capacity = capacity
        self._queue: SimpleQueue[tuple[str, int] | None] = (
            SimpleQueue()
        )  # text, and `_overflowed` when it was queued
        self._lock = threading.RLock()  # reentrant: a finalizer may log while this thread holds it
        self._waiting = 0
        self._overflowed = 0  # lines that did not fit into the queue
        self._failed = 0  # lines that could not be written
        self._reported = 0  # lines of both kinds reported by a notice
        self._error = self._last_error = ""
        self._began = 0.0  # start of the write in progress
        self._torn = False  # the last line was written in part
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue `text`; drop it if the queue is full."""
        text = text if len(text) <= _LONGEST else text[:_LONGEST] + " …\n"
        with self._lock:
            if self._waiting + len(text) > self._capacity:
                self._overflowed += _lines(text)
                self._error = self._last_error = "its reader is too slow"
                return
            self._waiting += len(text)
            self._queue.put((text, self._overflowed))

    def status(self) -> OutputStatus:
        """Take a snapshot of counts and errors."""
        began = self._began
        stuck = "its reader does not read" if began and time.monotonic() - began > _SLOW else ""
        return OutputStatus(
            self._overflowed + self._failed, 0, self._error or stuck, self._last_error or stuck, self._waiting
        )

    def close(self, timeout: float = _FLUSH) -> None:
        """Write the queued text, for at most `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            text, overflowed = item
            lost = overflowed + self._failed - self._reported
            note = self.notice(lost, self._last_error) if lost else ""
            self._began = time.monotonic()
            error = self._put(note + text)
            self._began = 0.0
            with self._lock:
                self._waiting -= len(text)
                if error:
                    self._failed += _lines(text)
                    self._error = self._last_error = error
                else:
                    self._reported += lost
                    self._error = "" if self._reported == self._overflowed + self._failed else self._error
            if error:
                time.sleep(_PAUSE)

    def _put(self, text: str) -> str:
        """Write all of `text`; return the error, empty on success."""
        rest = memoryview((("\n" if self._torn else "") + text).encode("utf-8", "backslashreplace"))
        whole = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # the descriptor was made non-blocking from outside
                select.select([], [self._descriptor], [], _PAUSE)
            except OSError as error:
                self._torn = self._torn or len(rest) < whole
                return error.strerror or str(error)
        self._torn = False
        return ""


def _lines(text: str) -> int:
    return max(1, text.count("\n"))


class GuardedStream(io.TextIOBase):
    """A text stream over an `OutputWriter`, in place of `original`."""

    def __init__(self, original: TextIO, writer: OutputWriter) -> None:
        self.writer = writer
        self._original = original

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the stream."""
        return "utf-8"

    def fileno(self) -> int:
        return self._original.fileno()

    def isatty(self) -> bool:
        return self._original.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writer.write(text)
        return len(text)


def log_status() -> OutputStatus:
    """Return the state of this process's standard error; all counts are 0 if it isn't guarded."""
    stream = sys.stderr
    return stream.writer.status() if isinstance(stream, GuardedStream) else OutputStatus()


def guard(name: str) -> OutputWriter | None:
    """Replace `sys.stdout` or `sys.stderr` with a `GuardedStream` until the process ends.

    Returns None for a stream without a descriptor, which is in memory and can't block.
    """
    original = getattr(sys, name)
    if isinstance(original, GuardedStream):
        return original.writer
    try:
        writer = OutputWriter(original.fileno())
        original.flush()
    except (OSError, ValueError, AttributeError):
        return None
    guarded = GuardedStream(original, writer)
    setattr(sys, name, guarded)
    # a forked child doesn't have the writer's thread
    os.register_at_fork(after_in_child=lambda: _restore(name, guarded, original))
    atexit.register(writer.close)
    return writer


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard both streams while the context is open.

    At the end standard error stays guarded, and standard output is restored once the queued text is written.
    """
    original = sys.stdout
    guard("stderr")
    writer = guard("stdout")
    try:
        yield
    finally:
        if writer is not None and isinstance(sys.stdout, GuardedStream):
            writer.close()
            sys.stdout = original


def _restore(name: str, guarded: GuardedStream, original: TextIO) -> None:
    if getattr(sys, name) is guarded:
        setattr(sys, name, original)
