"""Observers of the running agent."""

from __future__ import annotations

from typing import Protocol

from agent.core.events import Decision, Event


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
