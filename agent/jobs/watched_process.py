"""A worker in a process and session of its own: messages, limits, cancellation, the end of its log."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from agent.core.errors import TapewireError
from agent.core.masking import mask
from agent.data.text import one_line, printable
from agent.jobs.worker_side import WorkerMessage

_CHECK: Final = 0.5  # seconds between two looks at the limits
_SECRETS: Final = "TAPEWIRE_"  # begin of the names of variables that a worker doesn't get


class ResultTooLarge(TapewireError):
    """A message exceeds the limit."""


class WatchedProcess:
    """One run of a worker, `python -m MODULE`. See `agent.jobs.worker_side` for the worker's side.

    Args:
        module: What to run.
        request: Its first line of input, without the line break.
        on_message: Called with each message.
        check: Called twice a second with the seconds since the start; it raises TapewireError at a limit.
        max_message: Bytes of the largest message.
        tail: Bytes of standard error that are kept.
        grace: Seconds between an interrupt and the kill if the worker has to end early; 0: kill at once.
    """

    def __init__(
        self,
        module: str,
        request: bytes,
        *,
        on_message: Callable[[WorkerMessage], None],
        check: Callable[[float], None],
        max_message: int,
        tail: int,
        grace: float = 0.0,
    ) -> None:
        self._module = module
        self._request = request
        self._on_message = on_message
        self._check = check
        self._max_message = max_message
        self._max_tail = tail
        self._grace = grace
        self._tail = b""
        self.exit_code: int | None = None

    @property
    def tail(self) -> str:
        """The end of standard error, without secrets and control characters."""
        lines = self._tail.decode(errors="replace").splitlines()
        return mask("\n".join(printable(line) for line in lines)).rstrip()

    async def run(self) -> WorkerMessage | None:
        """Run to the end; return the last message if it has a result or an error, else None.

        Neither the process nor one of its group is left. Raises what `check` raises, ResultTooLarge,
        MsgspecError for a malformed message, and OSError if the process can't be started.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=self._max_message,
            env=_environment(),
            start_new_session=True,
        )
        reading = asyncio.create_task(self._read(process))
        try:
            began = asyncio.get_running_loop().time()
            while not reading.done():
                await asyncio.wait({reading}, timeout=_CHECK)
                if not reading.done():
                    self._check(asyncio.get_running_loop().time() - began)
            return reading.result()
        finally:
            await self._end(process, reading)

    async def _read(self, process: Process) -> WorkerMessage | None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a worker needs pipes")
        complaints = asyncio.create_task(self._keep_tail(process.stderr))
        try:
            process.stdin.write(self._request + b"\n")  # it stays open: the worker ends with it
            try:
                while line := await process.stdout.readline():
                    message = msgspec.json.decode(line, type=WorkerMessage)
                    self._on_message(message)
                    if message.error or bytes(message.result):
                        return message
            except msgspec.MsgspecError:
                raise
            except ValueError:  # a line beyond the limit
                raise ResultTooLarge("the result is too large") from None
            self.exit_code = await process.wait()
            await complaints
            return None
        finally:
            complaints.cancel()

    async def _keep_tail(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(65_536):
            self._tail = (self._tail + chunk)[-self._max_tail :]

    async def _end(self, process: Process, reading: asyncio.Task[WorkerMessage | None]) -> None:
        """End the process and its group, and wait for it."""
        try:
            if process.returncode is None and self._grace:
                if not reading.done():  # it has to end early
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGINT)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._grace):
                        await process.wait()
        finally:
            reading.cancel()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            self.exit_code = await process.wait()

    def failure(self) -> str:
        """Return why a worker ended without a result: its last line, or its exit code."""
        code = self.exit_code
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"ended by {signal.Signals(-code).name}"
        lines = (line.strip(" │╭╮╰╯─") for line in reversed(self.tail.splitlines()))
        return one_line(next(filter(None, lines), ""), 200) or f"exit code {code}"

    def lacked_memory(self) -> bool:
        """Return True if the last line states that memory could not be allocated."""
        last = self.tail.rpartition("\n")[2]
        return "MemoryError" in last or "allocate" in last


def _environment() -> dict[str, str]:
    """Return the worker's environment: without this program's secrets, with one thread for each library."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    return {"OMP_NUM_THREADS": "1"} | kept
