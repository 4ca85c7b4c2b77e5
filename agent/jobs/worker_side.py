"""The side of a worker process: its request, its messages, its limits, and its end with its parent.

The request is the first line of standard input; the process ends when its parent closes that. Messages are
lines of JSON on standard output. What the work itself prints there goes to standard error.
"""

from __future__ import annotations

import atexit
import os
import resource
import select
import signal
import threading
import time
from typing import Any, BinaryIO, Final

import msgspec

_MIB: Final = 1 << 20
_CPU_RESERVE: Final = 10  # seconds of CPU between the signal and the kernel's kill
_NICE: Final = 10


class WorkerMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a worker's output: the share that is done, or the result, or an error.

    `line` states what is being done; a message with a `result` or an `error` is the last one.
    """

    share: float = 0.0
    line: str = ""
    result: msgspec.Raw = msgspec.Raw()
    error: str = ""
    hint: str = ""


class MessageWriter:
    """Sends messages; made once, before the work begins."""

    def __init__(self) -> None:
        self._lines: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, message: WorkerMessage) -> None:
        """Send a message at once."""
        self._lines.write(msgspec.json.encode(message) + b"\n")
        self._lines.flush()

    def send_result(self, result: Any) -> None:
        """Send the result, the last message."""
        self.send(WorkerMessage(1.0, result=msgspec.Raw(msgspec.json.encode(result))))


def read_request() -> bytes:
    """Read the first line of standard input."""
    line = b""
    while not line.endswith(b"\n") and (read := os.read(0, 1)):
        line += read
    return line


def limit_process(*, memory: int, cpu: int | None = None) -> None:
    """Lower the priority, and limit memory (MiB) and CPU time (seconds, signalled by SIGXCPU)."""
    os.nice(_NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory * _MIB, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if cpu is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + _CPU_RESERVE))


def end_with_parent(grace: float = 0.0) -> None:
    """End this process and its group once the parent closes standard input.

    With `grace` (seconds) it is interrupted first, so that it can record its end; when it exits, so does its
    group.
    """
    atexit.register(_end_group_of_orphan)
    threading.Thread(target=_end_with_parent, args=(grace,), daemon=True).start()


def _end_with_parent(grace: float) -> None:
    while os.read(0, 4_096):
        pass
    if grace:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(grace)
    _end_group()
    os._exit(1)


def _end_group_of_orphan() -> None:
    """End the group if the parent, which does it otherwise, has closed standard input."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        _end_group()


def _end_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
