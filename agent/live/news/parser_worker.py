"""The process in which feed documents are parsed: one document after another, with bounded memory and CPU
time.

It imports feedparser and little else, has no environment, and holds nothing: a document that exceeds its
limits ends only this process. It ends with its parent: at the end of its input, and while it parses by the
kernel's signal.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from typing import BinaryIO, Final

import msgspec

from agent.core.errors import DataError
from agent.live.news.document import Document
from agent.live.news.parse import parse

HEADER: Final = struct.Struct("!II")
"""Before each message: the lengths of its head and of its body; of a reply the body is empty."""

MAX_REPLY: Final = 1 << 24
"""Bytes; a document holds at most a part of that."""

READY: Final = b"ready\n"
"""Written once the worker takes documents."""

_PR_SET_PDEATHSIG: Final = 1
_CPU_GRACE: Final = 1.0  # seconds beyond the limit: the parent, which watches the wall clock, comes first


class Request(msgspec.Struct, frozen=True, array_like=True):
    """The head of a document to parse; its body follows."""

    url: str
    content_type: str
    seconds: float  # of CPU time, at most


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The result for a document: its content, or the reason why it can't be read."""

    document: Document | None
    error: str = ""
    hint: str = ""
    spent: bool = False  # the worker's memory is used up; another one takes over
    memory: int = 0  # bytes that this worker holds


def serve() -> None:
    """Parse documents from standard input until its end. Arguments: the parent's process id, and bytes
    that parsing may take.
    """
    parent, memory = (int(argument) for argument in sys.argv[-2:])
    _end_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends it, in its own order
        signal.signal(number, signal.SIG_IGN)
    for kind, limit in (
        (resource.RLIMIT_AS, _memory()[0] + memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _limit(kind, limit)
    documents = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # output of a library must not mix with replies
        replies.write(READY)
        replies.flush()
        while head := documents.read(HEADER.size):
            _answer(documents, replies, head)


def _answer(documents: BinaryIO, replies: BinaryIO, head: bytes) -> None:
    size, length = HEADER.unpack(head)
    request = msgspec.msgpack.decode(documents.read(size), type=Request)
    body = documents.read(length)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(
        resource.RLIMIT_CPU,
        math.ceil(used.ru_utime + used.ru_stime + request.seconds + _CPU_GRACE),
        hard=False,
    )
    reply = msgspec.msgpack.encode(_reply_to(request, body))
    if len(reply) > MAX_REPLY:
        reply = msgspec.msgpack.encode(
            Reply(None, f"the feed is refused: more than {MAX_REPLY} bytes of text")
        )
    replies.write(HEADER.pack(len(reply), 0) + reply)
    replies.flush()


def _reply_to(request: Request, body: bytes) -> Reply:
    document, error, hint, spent = None, "", "", False
    try:
        document = parse(body, url=request.url, content_type=request.content_type)
    except DataError as failure:
        error, hint = failure.message, failure.hint
    except MemoryError:
        error, spent = "the feed is refused: parsing it takes more memory than is allowed", True
    except Exception as failure:  # noqa: BLE001 the supervision boundary of the parser, which fails in every way
        error, hint = "the feed breaks the parser", type(failure).__name__
    return Reply(document, error, hint, spent, _memory()[1])


def _memory() -> tuple[int, int]:
    """Bytes of address space, and of memory in use; on Linux, elsewhere a guess and 0."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            space, held = file.read().split()[:2]
    except OSError:
        return 1 << 30, 0
    return int(space) * resource.getpagesize(), int(held) * resource.getpagesize()


def _limit(kind: int, amount: int, *, hard: bool = True) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    _, most = resource.getrlimit(kind)
    amount = amount if most == resource.RLIM_INFINITY else min(amount, most)
    # a system without this limit: the parent's clock still ends the worker
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (amount, amount if hard else most))


def _end_with(parent: int) -> None:
    """Be killed when the parent is, however it ends, also in the middle of a document. Linux alone can do
    that.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the signal was set up
        sys.exit(1)
