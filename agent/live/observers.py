"""The sink of a live run, which passes decisions on to observers, and the observers that every agent has."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import structlog

from agent.core.events import Decision, Event, Kline, Order, OrderUpdate
from agent.core.sinks import DecisionSink
from agent.live.formatting import describe, sentence
from agent.live.interfaces.observer import Observer

_log: Final = structlog.get_logger(__name__)


class LiveSink:
    """Passes decisions on to `inner`, and to the observers. Of the account's samples the first in each `every` ms goes on.

    Marks move with every state of an open bar; a curve of a point a bar, on the bars' grid, is what reports are made for.
    """

    def __init__(self, inner: DecisionSink, every: int) -> None:
        self.event_seq = 0
        self.orders = 0  # so far
        self.observers: list[Observer] = []
        self.news = inner.news
        self.sentiment = inner.sentiment
        self._inner = inner
        self._every = every
        self._period = -1

    @property
    def position(self) -> tuple[int, int]:
        """How far it has come: orders, and the last period of which a sample went on."""
        return self.orders, self._period

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self.orders, self._period = position

    def decision(self, decision: Decision) -> None:
        """Passed on."""
        self._inner.decision(decision)
        if isinstance(decision, Order):
            self.orders += 1
        for observer in self.observers:
            observer.decision(self.event_seq, decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """The first sample of each period is passed on."""
        for row, moment in enumerate(ts):
            if moment // self._every != self._period:
                self._period = moment // self._every
                self._inner.equity([self._period * self._every], [equity[row]], [cash[row]], [exposure[row]])


class LogObserver:
    """Writes what matters to the log; bars and their updates only at level debug."""

    def event(self, seq: int, event: Event) -> None:
        """Logged."""
        words = describe(event)
        log = _log.debug if isinstance(event, Kline) else _log.info
        log(words.pop("what"), event_id=seq, **words)

    def decision(self, seq: int, decision: Decision) -> None:
        """Logged."""
        words = describe(decision)
        log = _log.debug if isinstance(decision, OrderUpdate) else _log.info
        log(words.pop("what"), event_id=seq, **words)


class RecentActivity:
    """The last things that happened, for `status`; bars are left out."""

    def __init__(self, size: int = 20) -> None:
        self.lines: deque[dict[str, Any]] = deque(maxlen=size)

    def event(self, seq: int, event: Event) -> None:
        """Kept, unless it is a bar."""
        if not isinstance(event, Kline):
            self.lines.append({"event": seq, "at": event.available_at, "what": sentence(event)})

    def decision(self, seq: int, decision: Decision) -> None:
        """Kept."""
        self.lines.append({"event": seq, "at": decision.ts, "what": sentence(decision)})
