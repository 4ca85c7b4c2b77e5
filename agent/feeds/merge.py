"""Many sources, one stream in the total order of events: (available_at, kind's priority, source number, sequence).

A heap holds one event a source. While the source in front stays in front, events pass it by without a heap operation.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agent.clock import iso
from agent.errors import DataError
from agent.events import PRIORITY, Event

_PRIORITIES: Final = max(PRIORITY.values()) + 1
_NEVER: Final = 1 << 80  # later than any key


def merge(sources: Sequence[Iterable[Event]]) -> Iterator[Event]:
    """The events of all `sources` in total order; the source number is the place in `sources`.

    Lazy: one event a source is held. Never compares two events, only their keys, which are all different. Raises DataError
    where a source goes backwards in (available_at, priority), naming it (by its `name`, if it has one) and the two events.
    """
    # One integer a key, so that ordering takes one comparison: available_at, then priority, then source number, as digits.
    scale = _PRIORITIES * len(sources)
    others: list[tuple[int, Event, Iterator[Event], int]] = []
    for number, source in enumerate(sources):
        events = iter(source)
        for event in events:
            others.append((event.available_at * scale + PRIORITY[type(event)] * len(sources) + number, event, events, number))
            break
    heapq.heapify(others)
    while others:
        key, event, events, number = heapq.heappop(others)
        while True:
            rival = others[0][0] if others else _NEVER
            limit = rival // scale
            latest, kind = event.available_at, type(event)
            yield event
            for event in events:
                now = event.available_at
                if latest < now < limit:  # no tie on either side: times alone decide
                    latest, kind = now, type(event)
                    yield event
                    continue
                key = latest * scale + PRIORITY[kind] * len(sources) + number
                kind = type(event)
                following = now * scale + PRIORITY[kind] * len(sources) + number
                if not key <= following < rival:
                    break
                latest = now
                yield event
            else:
                break  # this source has ended
            if following < key:
                raise _backwards(sources[number], number, divmod(key // len(sources), _PRIORITIES), event)
            key, event, events, number = heapq.heappushpop(others, (following, event, events, number))


def _backwards(source: Iterable[Event], number: int, before: tuple[int, int], event: Event) -> DataError:
    name = getattr(source, "name", None) or f"number {number + 1}"
    kind = next(kind for kind, priority in PRIORITY.items() if priority == before[1])
    return DataError(
        f"source {name} goes backwards: {type(event).__name__} available at {iso(event.available_at)} "
        f"after {kind.__name__} available at {iso(before[0])}",
        hint="sort the source by the time its events became known",
    )
