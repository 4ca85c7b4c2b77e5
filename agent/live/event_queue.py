"""The bounded queue between the producers and the core, with statistics.

    event                when the queue is full
    open bar             the newest state of a series replaces the one that waits
    headline             the oldest is dropped and counted
    any other            nothing is lost: the producer waits

Events leave in the order of their arrival, except those that were put first.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from itertools import count, islice
from typing import Final

from agent.core.events import Event, Kline, News, kind_of
from agent.live.interfaces.status import KindStats, QueueStats

OPEN_BAR: Final = "Kline (open)"
"""Kind of open bars in `QueueStats.kinds`."""

RECENT: Final = 4_096
"""Number of waits remembered of each kind."""


class _Entry:
    __slots__ = ("event", "kind", "since")

    def __init__(self, event: Event, kind: str, since: float) -> None:
        self.event = event
        self.kind = kind
        self.since = since


class EventQueue:
    """A queue of many producers and one consumer in one event loop.

    It holds at most `capacity` events that may not be lost, `news_capacity` headlines, and one open bar of
    each series. `timer` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        capacity: int = 10_000,
        news_capacity: int = 1_000,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._news_capacity = news_capacity
        self._timer = timer
        self._numbers = count()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._open_bars: dict[tuple[str, int], int] = {}
        self._news: deque[int] = deque()
        self._urgent: set[int] = set()  # numbers of events that were put first
        self._filled = asyncio.Event()
        self._space = asyncio.Event()
        self._high_water = 0
        self._blocked = 0
        self._puts: Counter[str] = Counter()
        self._coalesced: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._waits: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def longest_wait(self) -> float:
        """Seconds for which the oldest event has waited; 0 if the queue is empty."""
        oldest = next(iter(self._entries.values()), None)
        return 0.0 if oldest is None else self._timer() - oldest.since

    def put_first(self, event: Event) -> None:
        """Insert an urgent event, such as a kill, before all others, even if the queue is full."""
        number = self._append(event, kind_of(event))
        self._entries.move_to_end(number, last=False)
        self._urgent.add(number)

    def take_first(self) -> list[tuple[Event, float]]:
        """Take the events that were put first, each with its time of arrival."""
        taken: list[tuple[Event, float]] = []
        while self._urgent and (head := next(iter(self._entries))) in self._urgent:
            since = self._entries[head].since
            taken.append((self._take(self._timer()), since))
        return taken

    def emit(self, event: Event) -> Awaitable[None] | None:
        """Append an event; if it may not be lost, return an awaitable of `put`. An open bar never waits, and
        is appended without a task switch.
        """
        if isinstance(event, Kline) and not event.confirm:
            self._put_open_bar(event)
            return None
        return self.put(event)

    async def put(self, event: Event) -> None:
        """Append an event; wait while the queue is full of events that may not be lost. Safe to cancel."""
        if isinstance(event, Kline):
            if not event.confirm:
                self._put_open_bar(event)
                return
            await self._has_room()
            self._close_bar(event)
        elif isinstance(event, News):
            if len(self._news) >= self._news_capacity:
                oldest = self._entries.pop(self._news.popleft())
                self._dropped[oldest.kind] += 1
            self._news.append(self._append(event, "News"))
            return
        else:
            await self._has_room()
        self._append(event, kind_of(event))

    async def get(self) -> Event:
        """Wait for an event and take the oldest."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        return self._take(self._timer())

    async def take(self, limit: int) -> list[tuple[Event, float]]:
        """Wait for events and take at most `limit`, oldest first, each with its time of arrival by
        `timer`.
        """
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        since = [entry.since for entry in islice(self._entries.values(), limit)]
        now = self._timer()
        return [(self._take(now), when) for when in since]

    def get_nowait(self) -> Event | None:
        """Take the oldest event; None if the queue is empty."""
        return self._take(self._timer()) if self._entries else None

    def stats(self) -> QueueStats:
        """Take a snapshot of depths, counts and waits."""
        kinds = {kind: KindStats(put=put) for kind, put in sorted(self._puts.items())}
        for kind, stats in kinds.items():
            stats.taken, stats.coalesced, stats.dropped = (
                self._taken[kind],
                self._coalesced[kind],
                self._dropped[kind],
            )
            stats.waiting = stats.put - stats.taken - stats.coalesced - stats.dropped
            if waits := sorted(self._waits.get(kind, ())):
                stats.wait_p50, stats.wait_p99 = (
                    1000 * waits[int(share * (len(waits) - 1))] for share in (0.5, 0.99)
                )
                stats.wait_max = 1000 * waits[-1]
        return QueueStats(len(self._entries), self._high_water, self._blocked, kinds)

    def _put_open_bar(self, bar: Kline) -> None:
        series = (bar.symbol, bar.interval)
        number = self._open_bars.get(series)
        if number is None:
            self._open_bars[series] = self._append(bar, OPEN_BAR)
            return
        # Replaced in place: if each update went to the end of the queue, a busy symbol would never get
        # through.
        self._entries[number].event = bar
        self._puts[OPEN_BAR] += 1
        self._coalesced[OPEN_BAR] += 1

    def _close_bar(self, bar: Kline) -> None:
        """Remove an open state that waits: otherwise the next bar would take its place, before this close."""
        number = self._open_bars.pop((bar.symbol, bar.interval), None)
        if number is not None:
            del self._entries[number]
            self._coalesced[OPEN_BAR] += 1

    async def _has_room(self) -> None:
        if self._lasting < self._capacity:
            return
        self._blocked += 1
        while self._lasting >= self._capacity:
            self._space.clear()
            await self._space.wait()

    @property
    def _lasting(self) -> int:
        """Number of waiting events that may not be lost."""
        return len(self._entries) - len(self._open_bars) - len(self._news)

    def _append(self, event: Event, kind: str) -> int:
        number = next(self._numbers)
        self._entries[number] = _Entry(event, kind, self._timer())
        self._puts[kind] += 1
        if len(self._entries) > self._high_water:
            self._high_water = len(self._entries)
        self._filled.set()
        return number

    def _take(self, now: float) -> Event:
        number, entry = self._entries.popitem(last=False)
        self._urgent.discard(number)
        kind = entry.kind
        if kind == OPEN_BAR:
            bar = entry.event
            if isinstance(bar, Kline):
                del self._open_bars[bar.symbol, bar.interval]
        elif kind == "News":
            self._news.popleft()
        else:
            self._space.set()
        self._taken[kind] += 1
        waits = self._waits.get(kind)
        if waits is None:
            waits = self._waits[kind] = deque(maxlen=RECENT)
        waits.append(now - entry.since)
        return entry.event
