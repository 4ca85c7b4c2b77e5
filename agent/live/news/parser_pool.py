"""Parse feed documents in separate processes, so that a hostile one can be killed and never delays another
feed.

At most two processes run: one for quick documents, which nearly all are, and one for a document that turns
out to be slow. Workers are started on demand and reused; a killed one is replaced on demand.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

import agent
from agent.core.durations import format_duration
from agent.core.errors import DataError, VenueError
from agent.live.news.feed_parser import FeedDocument
from agent.live.news.parser_worker import HEADER, MAX_REPLY, READY, ParseReply, ParseRequest

QUICK: Final = 2.5
"""Seconds after which a document is slow and leaves the quick lane to waiting documents."""

_START_TIMEOUT: Final = 30.0  # seconds, on a busy machine
_CHECK_INTERVAL: Final = 0.25  # seconds between two checks for waiting documents
_MAX_IDLE_MEMORY: Final = 64_000_000  # bytes; a worker that uses more isn't kept
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")
"""Environment variables that a worker needs. Others may hold secrets, so they aren't passed on."""
_PROGRAM: Final = (
    "import sys\nroot = sys.argv[1]\nif root not in sys.path: sys.path.insert(0, root)\n"
    "from agent.live.news.parser_worker import serve\nserve()"
)


class ParseKilled(DataError):
    """Parsing a document took too long, or crashed the worker."""


class ParserPool:
    """Pool of parser processes; use it as an async context manager.

    `timeout` (ms) limits the parsing of one document, `memory` (bytes) a worker. A document that takes longer
    than `quick` seconds is slow.
    """

    def __init__(self, timeout: int, memory: int, *, quick: float = QUICK) -> None:
        self._timeout = timeout / 1000
        self._quick_within = quick
        self._memory = memory
        self._quick = asyncio.Semaphore(1)
        self._slow = asyncio.Semaphore(1)
        self._waiting = 0
        self._idle: _Worker | None = None
        self._workers: set[_Worker] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._idle = None
        for worker in list(self._workers):
            await self._end(worker)

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    async def parse(
        self, body: bytes, *, url: str = "", content_type: str = "", suspect: bool = False
    ) -> FeedDocument:
        """Parse a document as `parse_feed` does; a `suspect` one goes straight to the slow lane.

        Raises DataError, of which ParseKilled is a subclass, or VenueError if no worker can be started.
        """
        slot = _Slot(self._slow if suspect else self._quick)
        self._waiting += not suspect
        try:
            await slot.lane.acquire()
        finally:
            self._waiting -= not suspect
        worker: _Worker | None = None
        try:
            worker, self._idle = self._idle or await self._start(), None
            request = ParseRequest(url, content_type, self._timeout)
            work = asyncio.create_task(worker.parse(request, body))
            try:
                await self._watch(work, slot)
                reply = work.result()
            finally:
                work.cancel()
            if not reply.spent and reply.memory < _MAX_IDLE_MEMORY and self._idle is None:
                self._idle, worker = worker, None
        finally:
            slot.lane.release()
            if worker is not None:
                await self._end(worker)
        if reply.document is None:
            raise DataError(reply.error, hint=reply.hint)
        return reply.document

    async def _watch(self, work: asyncio.Task[ParseReply], slot: _Slot) -> None:
        """Wait until the work is done, and move it to the slow lane if it is slow while other documents wait.

        Raises ParseKilled if it takes too long, or if the slow lane is taken.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not work.done():
            left = began + self._timeout - loop.time()
            if left <= 0:
                raise _too_long(self._timeout)
            if slot.lane is self._quick and loop.time() - began > self._quick_within and self._waiting:
                if self._slow.locked():
                    raise _too_long(self._quick_within, " while others waited")
                await self._slow.acquire()
                self._quick.release()
                slot.lane = self._slow
            await asyncio.wait({work}, timeout=min(left, _CHECK_INTERVAL))

    async def _start(self) -> _Worker:
        command = [sys.executable, "-P", "-c", _PROGRAM, str(Path(agent.__file__).resolve().parents[1])]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(os.getpid()),
                str(self._memory),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise VenueError(f"the feed parser can't be started: {error.strerror}") from None
        worker = _Worker(process)
        self._workers.add(worker)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await worker.ready()
        except (EOFError, OSError, TimeoutError):
            await self._end(worker)
            hint = "is news.parse_memory too small?"
            raise VenueError("the feed parser can't be started", hint=hint) from None
        except BaseException:
            await self._end(worker)
            raise
        return worker

    async def _end(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        await worker.wait_closed()


class _Slot:
    """The lane that a document holds."""

    def __init__(self, lane: asyncio.Semaphore) -> None:
        self.lane = lane


def _too_long(seconds: float, why: str = "") -> ParseKilled:
    return ParseKilled(f"parse took longer than {format_duration(round(seconds * 1000))}{why}, killed")


class _Worker:
    """A parser process."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a worker needs pipes for stdin and stdout")
        self.pid = process.pid
        self._process = process
        self._documents = process.stdin
        self._replies = process.stdout

    async def ready(self) -> None:
        """Wait until the worker accepts documents. Raises EOFError if it ends instead."""
        await self._replies.readexactly(len(READY))

    async def parse(self, request: ParseRequest, body: bytes) -> ParseReply:
        """Parse one document. Raises ParseKilled if the worker dies while it parses."""
        head = msgspec.msgpack.encode(request)
        try:
            self._documents.write(HEADER.pack(len(head), len(body)) + head)
            self._documents.write(body)
            await self._documents.drain()
            size, _ = HEADER.unpack(await self._replies.readexactly(HEADER.size))
            if size > MAX_REPLY:
                raise ParseKilled(f"the parser returned more than {MAX_REPLY} bytes, killed")
            return msgspec.msgpack.decode(await self._replies.readexactly(size), type=ParseReply)
        except (EOFError, ConnectionError, msgspec.DecodeError):
            raise ParseKilled("the document crashed the parser") from None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait_closed(self) -> None:
        """Wait until the process has ended."""
        self._documents.close()
        await self._process.wait()
