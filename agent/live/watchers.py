"""Those who look on while the core decides, and the sink that tells them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import structlog

from agent.events import Decision, Event, Kline, News, OrderUpdate, Sentiment
from agent.live.words import describe, sentence
from agent.sink import DecisionSink

_log: Final = structlog.get_logger(__name__)


class Watcher(Protocol):
    """Hears, after the core, of what is handled and decided; `seq` is the number of the event. It must not take long."""

    def event(self, seq: int, event: Event) -> None:
        """An input that the core has handled."""
        ...

    def decision(self, seq: int, decision: Decision) -> None:
        """What the core decided on it."""
        ...


class LiveSink:
    """Passes decisions on to `inner`, and to the watchers. Of the account's samples the first in each `every` ms goes on.

    Marks move with every state of an open bar; a curve of a point a bar is what reports and figures are made for.
    """

    def __init__(self, inner: DecisionSink, every: int) -> None:
        self.event_seq = 0
        self.watchers: list[Watcher] = []
        self.news = inner.news
        self.sentiment = inner.sentiment
        self._inner = inner
        self._every = every
        self._period = -1

    def decision(self, decision: Decision) -> None:
        """Passed on."""
        self._inner.decision(decision)
        for watcher in self.watchers:
            watcher.decision(self.event_seq, decision)

    def equity(self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]) -> None:
        """The first sample of each period is passed on."""
        for row, moment in enumerate(ts):
            if moment // self._every != self._period:
                self._period = moment // self._every
                self._inner.equity([moment], [equity[row]], [cash[row]], [exposure[row]])


class LogWatcher:
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


class Recent:
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


class Headlines:
    """Titles of recent headlines, by id: for those who hear of a sentiment and want its words."""

    def __init__(self, size: int = 500) -> None:
        self._titles: dict[str, str] = {}
        self._size = size

    def hear(self, news: News) -> None:
        """Remember one."""
        self._titles[news.id] = news.title
        if len(self._titles) > self._size:
            del self._titles[next(iter(self._titles))]

    def title(self, sentiment: Sentiment) -> str:
        """Of the headline that was scored; empty where it is forgotten."""
        return self._titles.get(sentiment.news_id, "")
