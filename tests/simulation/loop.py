"""An event loop without a clock or a network: time jumps to the next timer, and a seed decides what is left open by asyncio.

What asyncio promises is kept: callbacks run in the order in which they were scheduled. What it leaves open is drawn: how late a timer
is, how long a thread takes, and now and then the whole process stands still for a while, as one does that was swapped out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from itertools import count
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_LATE: Final = 0.003  # seconds that a timer is late, at most


class Deadlock(Exception):
    """Nothing is ready, and nothing ever will be."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`dice` draws; `freeze` is the probability that the process stands still before a step, up to 20 s, `thread` the longest call."""

    def __init__(self, dice: random.Random, *, freeze: float = 0.0, thread: float = 0.02) -> None:
        super().__init__()
        self.steps = 0
        self.freeze = freeze
        self._dice = dice
        self._thread = thread
        self._now = 0.0
        self._asleep = 0.0  # seconds for which the machine is suspended before the next step
        self._selector = self  # what the base class asks for ready sockets, and how it sleeps
        self._numbers = count()
        self._calls: list[asyncio.TimerHandle] = []  # that threads are at
        self.set_task_factory(self._new_task)  # type: ignore[arg-type]  # typeshed names its parameters otherwise

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Sleep: jump."""
        self.steps += 1
        if timeout is None:
            raise Deadlock(f"at {self._now:.3f} s nothing is scheduled")
        self._now += timeout + self._asleep
        self._asleep = 0.0
        if self.freeze and self._dice.random() < self.freeze:
            self._now += self._dice.uniform(0.1, 20)
        return []

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: time passes, and nothing runs."""
        self._asleep += seconds

    def call_at(  # type: ignore[override]  # without typeshed's variadic generics
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """A little later than asked for."""
        return super().call_at(when + _LATE * self._dice.random(), callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:  # type: ignore[override]
        """Call it here, when the thread would have done it. As with a thread, cancelling the wait doesn't undo the call."""
        future: asyncio.Future[_T] = self.create_future()

        def done() -> None:
            self._calls.remove(call)
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        call = self.call_later(self._thread * self._dice.random() ** 4, done)
        self._calls.append(call)
        return future

    def end_threads(self) -> None:
        """A process has died, and with it what its threads were about to do."""
        for call in self._calls:
            call.cancel()
        self._calls.clear()

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, _T], **more: Any
    ) -> asyncio.Task[_T]:
        return _Task(coro, next(self._numbers), loop=loop, **more)

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class _Task(asyncio.Task[_T]):
    """A task whose place in a set doesn't depend on its address: asyncio cancels a group's tasks in the order of a set."""

    def __init__(self, coro: Coroutine[Any, Any, _T], number: int, **more: Any) -> None:
        self._number = number
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other
