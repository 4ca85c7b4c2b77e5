"""Threads for the blocking work of a server, with a limit on the requests that use or wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from agent.core.errors import TapewireError

T = TypeVar("T")

_THREADS: Final = 2
_MAX_PENDING: Final = 8


class ServerBusy(TapewireError):
    """The server can't handle the request now, but a later try may succeed."""


class LimitedThreads:
    """Two threads named after their server. At most eight calls run or wait; further ones are refused."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, name)
        self._pending = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread and return its result. Raises ServerBusy if too many calls wait."""
        if self._pending >= _MAX_PENDING:
            raise ServerBusy("too many requests at once", hint="try again in a moment")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Wait for the calls that run, and cancel those that wait."""
        self._threads.shutdown(wait=True, cancel_futures=True)
