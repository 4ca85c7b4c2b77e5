"""The supervisor restarts a failed producer and leaves the others running."""

from __future__ import annotations

import asyncio
import random

from agent.core.errors import VenueError
from agent.core.events import Command, Event
from agent.live.interfaces.producer import Emit, Health
from agent.live.supervisor import Supervision, supervise
from agent.system.backoff import BackoffConfig
from agent.system.clock import WallClock
from tests.support.live import until

AT_ONCE = BackoffConfig(first=1, ceiling=1)


class Producer:
    """Emits one event per start, then ends as configured."""

    def __init__(self, name: str, *ends: BaseException | None) -> None:
        self.name = name
        self.health = Health(name)
        self._ends = list(ends)

    async def run(self, emit: Emit) -> None:
        emit(Command(self.name, 0, 0))
        if not self._ends:
            await asyncio.Event().wait()
        end = self._ends.pop(0)
        if end is not None:
            raise end


async def test_a_producer_that_ends_is_restarted_and_the_others_keep_running() -> None:
    heard: list[Event] = []
    broken = Producer(
        "broken",
        VenueError("no route"),
        ZeroDivisionError("a bug"),
        None,
        ExceptionGroup("two", [ValueError()]),
    )
    producers = [broken, Producer("steady")]
    supervisions = [Supervision(producer.name) for producer in producers]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                supervise(
                    p,
                    heard.append,  # type: ignore[arg-type]
                    AT_ONCE,
                    WallClock(),
                    s,
                    random.Random(1),
                )
            )
            for p, s in zip(producers, supervisions, strict=True)
        ]
        await until(lambda: len(heard) == 6)
        for task in tasks:
            task.cancel()
    assert [event.action for event in heard].count("broken") == 5  # type: ignore[union-attr]
    assert [(s.starts, s.failures) for s in supervisions] == [(5, 4), (1, 0)]
    assert supervisions[0].last_failure.startswith("ExceptionGroup")
    assert supervisions[0].last_failure_at > 0


async def test_a_cancelled_producer_is_not_restarted() -> None:
    supervision = Supervision("p")
    task = asyncio.create_task(
        supervise(Producer("p"), lambda _: None, AT_ONCE, WallClock(), supervision, random.Random(1))
    )
    await until(lambda: supervision.starts)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert supervision.failures == 0
