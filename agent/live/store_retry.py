"""Writing with patience: where the store can't be written everything waits, and goes on by itself once it can."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from agent.config import StoreConfig
from agent.core.durations import format_duration
from agent.core.errors import StoreUnavailable
from agent.live.interfaces.status import StorageStatus
from agent.system.backoff import delays

_log: Final = structlog.get_logger(__name__)
_R = TypeVar("_R", covariant=True)


class Write(Protocol[_R]):
    """A blocking piece of work; `again` says that it was tried before, and perhaps done."""

    def __call__(self, *, again: bool) -> _R:
        """Raises StoreError."""
        ...


class Storage:
    """The one writer of a live run: a thread, so that sockets are read while the disk is slow, and patience."""

    def __init__(self, config: StoreConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._thread = ThreadPoolExecutor(1, "writer")
        self._status = StorageStatus()
        self._failing_since = self._began = 0.0
        self.writable = asyncio.Event()
        self.failing = asyncio.Event()
        self.writable.set()

    @property
    def status(self) -> StorageStatus:
        """A snapshot."""
        now = asyncio.get_running_loop().time()
        return msgspec.structs.replace(
            self._status,
            failing_s=round(now - self._failing_since, 1) if self.failing.is_set() else 0.0,
            pending_s=round(now - self._began, 1) if self._began else 0.0,
        )

    async def write(self, work: Write[_R], again: Callable[[], object] | None = None) -> _R:
        """Do it, again and again while the store can't be written; `again` is called before each further try.

        Raises StoreUnavailable when `store.patience` is over, and at once any other StoreError: that would not pass.
        """
        loop = asyncio.get_running_loop()
        waits = delays(self._config.retry, self._rng)
        while True:
            self._began = loop.time()
            try:
                result = await loop.run_in_executor(self._thread, lambda: work(again=self.failing.is_set()))
            except StoreUnavailable as error:
                await self._outlast(error, next(waits))
                if again is not None:
                    again()
            else:
                self._recovered()
                return result
            finally:
                self._began = 0.0

    async def _outlast(self, error: StoreUnavailable, wait: float) -> None:
        now = asyncio.get_running_loop().time()
        status = self._status
        if not self.failing.is_set():
            self._failing_since = self._began
            status.writable, status.tries = False, 0
            status.outages += 1
            self.failing.set()
            self.writable.clear()
            _log.error("trading halts: the store can't be written", reason=error.message, hint=error.hint)
        status.error = error.message
        status.tries += 1
        if (now - self._failing_since) * 1000 >= self._config.patience:
            raise StoreUnavailable(
                f"{error.message}, for {format_duration(self._config.patience)} now (store.patience)",
                hint=error.hint,
            ) from error
        self._began = 0.0
        await asyncio.sleep(wait)

    def _recovered(self) -> None:
        if self.failing.is_set():
            seconds = self.status.failing_s
            self._status.writable, self._status.tries = True, 0
            self.failing.clear()
            self.writable.set()
            _log.warning("the store can be written again: trading goes on", after_s=seconds)

    def close(self) -> None:
        """Wait for what is being written."""
        self._thread.shutdown()
