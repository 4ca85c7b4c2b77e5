"""Process that parses feed documents, one at a time, with bounded memory and CPU time.

It imports feedparser and little else, and keeps no environment and no state, so a document that exceeds the
limits ends only this process. The process ends with its parent: at the end of its input or, while it parses,
by a signal of the kernel.
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
from agent.live.news.feed_parser import FeedDocument, parse_feed

HEADER: Final = struct.Struct("!II")
"""Precedes each message: lengths of head and body; a reply has no body."""

MAX_REPLY: Final = 1 << 24
"""Bytes; replies within the other limits are smaller."""

READY: Final = b"ready\n"
"""Written when the worker is ready for documents."""

_PR_SET_PDEATHSIG: Final = 1
_CPU_GRACE: Final = 1.0  # seconds beyond the limit, so that the parent, which uses wall time, acts first


class ParseRequest(msgspec.Struct, frozen=True, array_like=True):
    """Head of a request; the document follows as body."""

    url: str
    content_type: str
    seconds: float  # of CPU time, at most


class ParseReply(msgspec.Struct, frozen=True, array_like=True):
    """Result for a document: its content, or an error."""

    document: FeedDocument | None
    error: str = ""
    hint: str = ""
    spent: bool = False  # out of memory: the worker must be replaced
    memory: int = 0  # bytes used by this worker


def serve() -> None:
    """Parse documents from standard input until its end.

    Command line arguments: the parent's process id, and the bytes that parsing may use.
    """
    parent, memory = (int(argument) for argument in sys.argv[-2:])
    _end_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends the worker
        signal.signal(number, signal.SIG_IGN)
    for kind, limit in (
        (resource.RLIMIT_AS, _memory()[0] + memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _limit(kind, limit)
    documents = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # a library's output must not mix with replies
        replies.write(READY)
        replies.flush()
        while head := documents.read(HEADER.size):
            _serve_one(documents, replies, head)


def _serve_one(documents: BinaryIO, replies: BinaryIO, head: bytes) -> None:
    size, length = HEADER.unpack(head)
    request = msgspec.msgpack.decode(documents.read(size), type=ParseRequest)
    body = documents.read(length)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(
        resource.RLIMIT_CPU,
        math.ceil(used.ru_utime + used.ru_stime + request.seconds + _CPU_GRACE),
        hard=False,
    )
    reply = msgspec.msgpack.encode(_parse(request, body))
    if len(reply) > MAX_REPLY:
        error = f"the feed exceeds a limit: more than {MAX_REPLY} bytes of text"
        reply = msgspec.msgpack.encode(ParseReply(None, error))
    replies.write(HEADER.pack(len(reply), 0) + reply)
    replies.flush()


def _parse(request: ParseRequest, body: bytes) -> ParseReply:
    document, error, hint, spent = None, "", "", False
    try:
        document = parse_feed(body, url=request.url, content_type=request.content_type)
    except DataError as failure:
        error, hint = failure.message, failure.hint
    except MemoryError:
        error, spent = "the feed exceeds a limit: parsing it takes more memory than is allowed", True
    except Exception as failure:  # noqa: BLE001 supervision boundary: feedparser can raise anything
        error, hint = "the parser failed on this feed", type(failure).__name__
    return ParseReply(document, error, hint, spent, _memory()[1])


def _memory() -> tuple[int, int]:
    """Return the bytes of address space and of memory in use; outside Linux, an estimate and 0."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            space, held = file.read().split()[:2]
    except OSError:
        return 1 << 30, 0
    return int(space) * resource.getpagesize(), int(held) * resource.getpagesize()


def _limit(kind: int, amount: int, *, hard: bool = True) -> None:
    """Lower a limit of this process, unless it is lower already."""
    _, most = resource.getrlimit(kind)
    amount = amount if most == resource.RLIM_INFINITY else min(amount, most)
    # Not all systems have each limit; the parent's time-out still applies
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (amount, amount if hard else most))


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when the parent ends, even in the middle of a document (Linux
    only).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the signal was set up
        sys.exit(1)
