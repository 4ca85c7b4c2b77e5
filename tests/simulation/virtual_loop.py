"""Event loop without clock and network: time jumps to the next timer, and a seeded RNG does the rest.

Guarantees of asyncio hold: callbacks run in the order in which they were scheduled. Random are the delay of
timers, the duration of thread calls, and occasional freezes of the whole process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from itertools import count
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_LATE: Final = 0.003  # maximum delay of a timer in seconds


class Deadlock(Exception):
    """Nothing is scheduled any more."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Virtual loop with the random generator `rng`.

    `freeze` is the probability that the process freezes before a step, for up to 20 s. `thread` is the
    longest duration of a call in a thread, in seconds.
    """

    def __init__(self, rng: random.Random, *, freeze: float = 0.0, thread: float = 0.02) -> None:
        super().__init__()
        self.steps = 0
        self.freeze = freeze
        self._rng = rng
        self._thread = thread
        self._now = 0.0
        self._suspended_for = 0.0  # seconds of suspension before the next step
        self._selector = self  # the base class sleeps in selector.select
        self._numbers = count()
        self._calls: list[asyncio.TimerHandle] = []  # calls that run in threads
        self.set_task_factory(self._new_task)  # type: ignore[arg-type]  # typeshed has other parameter names

    def time(self) -> float:
        """Return seconds since the start."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Jump to the next timer instead of sleeping."""
        self.steps += 1
        if timeout is None:
            raise Deadlock(f"nothing is scheduled at {self._now:.3f} s")
        self._now += timeout + self._suspended_for
        self._suspended_for = 0.0
        if self.freeze and self._rng.random() < self.freeze:
            self._now += self._rng.uniform(0.1, 20)
        return []

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: time passes, and nothing runs."""
        self._suspended_for += seconds

    def call_at(  # type: ignore[override]  # without typeshed's variadic generics
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback with a small random delay."""
        return super().call_at(when + _LATE * self._rng.random(), callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call `func` in the loop when a thread would have finished. As with a thread, cancelling the
        future doesn't undo the call.
        """
        future: asyncio.Future[_T] = self.create_future()

        def done() -> None:
            self._calls.remove(call)
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - passed to the waiter
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        call = self.call_later(self._thread * self._rng.random() ** 4, done)
        self._calls.append(call)
        return future

    def cancel_threads(self) -> None:
        """Cancel the pending calls of a process that has died."""
        for call in self._calls:
            call.cancel()
        self._calls.clear()

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, _T], **more: Any
    ) -> asyncio.Task[_T]:
        return _OrderedTask(coro, next(self._numbers), loop=loop, **more)

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class _OrderedTask(asyncio.Task[_T]):
    """Task with a stable hash, because asyncio cancels a group's tasks in set order."""

    def __init__(self, coro: Coroutine[Any, Any, _T], number: int, **more: Any) -> None:
        self._number = number
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other
