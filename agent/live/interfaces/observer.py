"""Observers of the running agent."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from agent.core.events import Decision, Event, News


class Observer(Protocol):
    """Receives every event and decision; `seq` is the number of the event.

    An observer runs inside the core's loop: it must return quickly and raise nothing.
    """

    def event(self, seq: int, event: Event) -> None:
        """Receive an event that is in the journal, just before the core handles it."""
        ...

    def decision(self, seq: int, decision: Decision) -> None:
        """Receive a decision that the core made on event `seq`."""
        ...


@runtime_checkable
class HeadlineObserver(Observer, Protocol):
    """An observer that also receives the core's reading of each headline."""

    def headline(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Receive a headline, the traded symbols that it is about, and the id of its story's first one."""
        ...
