"""Parses feed documents in processes of their own, so that a hostile one can be killed and never delays
another feed.

At most two run: one for quick documents, which nearly all are, and one for a document that turns out to be
slow. A worker is started on demand and reused; a killed one is replaced on demand.
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
from agent.live.news.document import Document
from agent.live.news.parser_worker import HEADER, MAX_REPLY, READY, Reply, Request

QUICK: Final = 2.5
"""Seconds after which a document counts as slow: it leaves the quick lane to those that wait."""

_START: Final = 30.0  # seconds for a worker to start, on a machine that is busy
_LOOK: Final = 0.25  # seconds between two checks for waiting documents
_HEAVY: Final = 64_000_000  # bytes; a worker that holds more is not kept, so that an idle one is small
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")
"""What a worker needs of the environment; the rest, which may hold secrets, is not for the process that
reads hostile input.
"""
_PROGRAM: Final = (
    "import sys\nroot = sys.argv[1]\nif root not in sys.path: sys.path.insert(0, root)\n"
    "from agent.live.news.parser_worker import serve\nserve()"
)


class ParseKilled(DataError):
    """A document took too long, or crashed its worker."""


class ParserPool:
    """`async with ParserPool(…) as pool`; `timeout` (ms) bounds the parsing of one document, `memory` (bytes)
    a worker.

    A document that takes longer than `quick` seconds is slow.
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
        """Kill all workers: their results aren't needed any more."""
        self._idle = None
        for worker in list(self._workers):
            await self._end(worker)

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    async def parse(
        self, body: bytes, *, url: str = "", content_type: str = "", suspect: bool = False
    ) -> Document:
        """As `agent.live.news.parse.parse`; a `suspect` document waits until no slow one is parsed.

        Raises DataError, among them ParseKilled; VenueError if no worker can be started.
        """
        turn = _Turn(self._slow if suspect else self._quick)
        self._waiting += not suspect
        try:
            await turn.lane.acquire()
        finally:
            self._waiting -= not suspect
        worker: _Worker | None = None
        try:
            worker, self._idle = self._idle or await self._start(), None
            request = Request(url, content_type, self._timeout)
            work = asyncio.create_task(worker.parse(request, body))
            try:
                await self._watch(work, turn)
                reply = work.result()
            finally:
                work.cancel()
            if not reply.spent and reply.memory < _HEAVY and self._idle is None:
                self._idle, worker = worker, None
        finally:
            turn.lane.release()
            if worker is not None:
                await self._end(worker)
        if reply.document is None:
            raise DataError(reply.error, hint=reply.hint)
        return reply.document

    async def _watch(self, work: asyncio.Task[Reply], turn: _Turn) -> None:
        """Wait until the work is done. Raises ParseKilled if it takes too long, or longer than others can
        wait.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not work.done():
            left = began + self._timeout - loop.time()
            if left <= 0:
                raise _too_long(self._timeout)
            if turn.lane is self._quick and loop.time() - began > self._quick_within and self._waiting:
                if self._slow.locked():
                    raise _too_long(self._quick_within, " while others waited")
                await self._slow.acquire()
                self._quick.release()
                turn.lane = self._slow
            await asyncio.wait({work}, timeout=min(left, _LOOK))

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
            raise VenueError(
                f"the feed parser can't be started: {error.strerror}", hint="processes or memory?"
            ) from None
        worker = _Worker(process)
        self._workers.add(worker)
        try:
            async with asyncio.timeout(_START):
                await worker.ready()
        except (EOFError, OSError, TimeoutError):
            await self._end(worker)
            raise VenueError(
                "the feed parser can't be started", hint="is news.parse_memory too small?"
            ) from None
        except BaseException:
            await self._end(worker)
            raise
        return worker

    async def _end(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        await worker.gone()


class _Turn:
    """The lane that a document holds."""

    def __init__(self, lane: asyncio.Semaphore) -> None:
        self.lane = lane


def _too_long(seconds: float, why: str = "") -> ParseKilled:
    return ParseKilled(f"parse took longer than {format_duration(round(seconds * 1000))}{why}, killed")


class _Worker:
    """One process."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a worker is spoken to through pipes")
        self.pid = process.pid
        self._process = process
        self._documents = process.stdin
        self._replies = process.stdout

    async def ready(self) -> None:
        """Wait until the worker accepts documents. Raises EOFError if it ended instead."""
        await self._replies.readexactly(len(READY))

    async def parse(self, request: Request, body: bytes) -> Reply:
        """Parse one document. Raises ParseKilled if the worker dies while it parses."""
        head = msgspec.msgpack.encode(request)
        try:
            self._documents.write(HEADER.pack(len(head), len(body)) + head)
            self._documents.write(body)
            await self._documents.drain()
            size, _ = HEADER.unpack(await self._replies.readexactly(HEADER.size))
            if size > MAX_REPLY:
                raise ParseKilled("the parser gave too long an answer, killed")
            return msgspec.msgpack.decode(await self._replies.readexactly(size), type=Reply)
        except (EOFError, ConnectionError, msgspec.DecodeError):
            raise ParseKilled("the parser died of the document") from None

    def kill(self) -> None:
        """Kill the worker."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def gone(self) -> None:
        """Wait until it has ended."""
        self._documents.close()
        await self._process.wait()
