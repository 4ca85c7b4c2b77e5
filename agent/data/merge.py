"""Merge of sources into one stream in the total order of events.

The order is (available_at, kind's priority, source number, sequence). A heap holds one event of each source.
As long as one source has the earliest event, its events are yielded without a heap operation.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agent.core.errors import DataError
from agent.core.events import PRIORITY, Event
from agent.system.clock import iso

_PRIORITIES: Final = max(PRIORITY.values()) + 1
_NEVER: Final = 1 << 80  # later than any key


def merge(sources: Sequence[Iterable[Event]]) -> Iterator[Event]:
    """Yield the events of all `sources` in total order; a source's number is its index.

    Lazy: one event of each source is held. Only keys are compared, which are all different, never events.
    Raises DataError if a source goes backwards in (available_at, priority), with its `name`, if it has one,
    and the two events.
    """
    # a key is one integer, for cheap comparisons: available_at, priority and source number as its digits
    scale = _PRIORITIES * len(sources)
    others: list[tuple[int, Event, Iterator[Event], dict[type, int], int]] = []
    for number, source in enumerate(sources):
        offsets = {kind: priority * len(sources) + number for kind, priority in PRIORITY.items()}
        events = iter(source)
        for event in events:
            others.append((event.available_at * scale + offsets[type(event)], event, events, offsets, number))
            break
    heapq.heapify(others)
    while others:
        _, event, events, offsets, number = heapq.heappop(others)
        while True:
            rival, limit = (others[0][0], others[0][1].available_at) if others else (_NEVER, _NEVER)
            latest, kind = event.available_at, type(event)
            yield event
            for event in events:
                now = event.available_at
                if now <= latest and (now < latest or offsets[type(event)] < offsets[kind]):
                    raise _backwards(sources[number], number, kind, latest, event)
                latest, kind = now, type(event)
                # usually the times alone determine the order
                if now >= limit and (key := now * scale + offsets[kind]) > rival:
                    break
                yield event
            else:
                break  # this source has ended
            _, event, events, offsets, number = heapq.heappushpop(
                others, (key, event, events, offsets, number)
            )


def _backwards(source: Iterable[Event], number: int, kind: type, latest: int, event: Event) -> DataError:
    name = getattr(source, "name", None) or f"number {number + 1}"
    return DataError(
        f"source {name} goes backwards: {type(event).__name__} available at {iso(event.available_at)} "
        f"after {kind.__name__} available at {iso(latest)}",
        hint="sort the source by the time its events became known",
    )
