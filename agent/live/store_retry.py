"""Retries writes while the store can't be written; everything else waits and then continues."""

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
    """A blocking write; `again` if an earlier attempt failed, perhaps after it had committed."""

    def __call__(self, *, again: bool) -> _R:
        """Raise StoreError if it fails."""
        ...


class StoreWriter:
    """The only writer of a live run: retries in a thread of its own, so that the event loop never waits for
    the disk.
    """

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
        """A snapshot of outages and durations."""
        now = asyncio.get_running_loop().time()
        return msgspec.structs.replace(
            self._status,
            failing_s=round(now - self._failing_since, 1) if self.failing.is_set() else 0.0,
            pending_s=round(now - self._began, 1) if self._began else 0.0,
        )

    async def write(self, work: Write[_R], again: Callable[[], object] | None = None) -> _R:
        """Run `work`, and retry while the store can't be written; call `again` before each further attempt.

        Raises StoreUnavailable after `store.patience`, and any other StoreError at once, since retrying
        wouldn't help.
        """
        loop = asyncio.get_running_loop()
        waits = delays(self._config.retry, self._rng)
        while True:
            self._began = loop.time()
            try:
                result = await loop.run_in_executor(self._thread, lambda: work(again=self.failing.is_set()))
            except StoreUnavailable as error:
                await self._wait_to_retry(error, next(waits))
                if again is not None:
                    again()
            else:
                self._recovered()
                return result
            finally:
                self._began = 0.0

    async def _wait_to_retry(self, error: StoreUnavailable, wait: float) -> None:
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
                f"{error.message}, for more than {format_duration(self._config.patience)} (store.patience)",
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
        """Wait for the write in progress."""
        self._thread.shutdown()
