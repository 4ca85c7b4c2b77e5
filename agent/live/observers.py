"""The sink of a live run, which passes decisions on to observers, and the observers that every agent has."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from agent.core.events import Decision, Event, Kline, News, Order, OrderUpdate
from agent.core.sinks import SleevedSink
from agent.live.formatting import describe, one_line_summary
from agent.live.interfaces.observer import HeadlineObserver, Observer

_log: Final = structlog.get_logger(__name__)


class LiveSink:
    """Passes decisions on to `inner` and to the observers, and the account's first sample in each `every` ms
    to `inner`.

    The account is sampled with every state of an open bar, but reports need one point a bar, on the bars'
    grid.
    """

    def __init__(self, inner: SleevedSink, every: int) -> None:
        self.event_seq = 0
        self.orders = 0
        self.observers: list[Observer] = []
        self.sentiment = inner.sentiment
        self._inner = inner
        self._every = every
        self._period = -1
        self._sleeve_periods: dict[str, int] = {}

    @property
    def position(self) -> tuple[int, int, dict[str, int]]:
        """Number of orders, and the last period whose sample was passed on: of the account, and by sleeve."""
        return self.orders, self._period, dict(self._sleeve_periods)

    @position.setter
    def position(self, position: tuple[int, int, dict[str, int]]) -> None:
        self.orders, self._period, periods = position
        self._sleeve_periods = dict(periods)

    def decision(self, decision: Decision) -> None:
        self._inner.decision(decision)
        if isinstance(decision, Order):
            self.orders += 1
        for observer in self.observers:
            observer.decision(self.event_seq, decision)

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        self._inner.news(news, symbols, story)
        for observer in self.observers:
            if isinstance(observer, HeadlineObserver):
                observer.headline(news, symbols, story)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Pass on the first sample of each period."""
        for row, at in enumerate(ts):
            if at // self._every != self._period:
                self._period = at // self._every
                self._inner.equity([self._period * self._every], [equity[row]], [cash[row]], [exposure[row]])

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        """Pass on the first sample of each period of a sleeve."""
        for row, at in enumerate(ts):
            period = at // self._every
            if period != self._sleeve_periods.get(sleeve, -1):
                self._sleeve_periods[sleeve] = period
                self._inner.sleeve_equity(
                    sleeve, [period * self._every], [equity[row]], [cash[row]], [exposure[row]]
                )


class LogObserver:
    """Logs events and decisions; bars and order updates at level debug."""

    def __init__(self) -> None:
        self._logger_class: object = None
        self._debug = False

    def event(self, seq: int, event: Event) -> None:
        if isinstance(event, Kline):
            if self._logs_debug():
                self._log(_log.debug, seq, event)
        else:
            self._log(_log.info, seq, event)

    def decision(self, seq: int, decision: Decision) -> None:
        if isinstance(decision, OrderUpdate):
            if self._logs_debug():
                self._log(_log.debug, seq, decision)
        else:
            self._log(_log.info, seq, decision)

    @staticmethod
    def _log(log: Callable[..., Any], seq: int, message: Event | Decision) -> None:
        fields = describe(message)
        log(fields.pop("what"), event_id=seq, **fields)

    def _logs_debug(self) -> bool:
        """Return whether the log has the level debug: otherwise bars, which are most events, are not even
        described.
        """
        logger_class = structlog.get_config()["wrapper_class"]
        if logger_class is not self._logger_class:  # the log was configured since
            self._logger_class, self._debug = logger_class, _log.is_enabled_for(logging.DEBUG)
        return self._debug


class RecentActivity:
    """The last events and decisions, without bars, for `status`."""

    def __init__(self, size: int = 20) -> None:
        self.lines: deque[dict[str, Any]] = deque(maxlen=size)

    def event(self, seq: int, event: Event) -> None:
        if not isinstance(event, Kline):
            self.lines.append({"event": seq, "at": event.available_at, "what": one_line_summary(event)})

    def decision(self, seq: int, decision: Decision) -> None:
        self.lines.append({"event": seq, "at": decision.ts, "what": one_line_summary(decision)})
