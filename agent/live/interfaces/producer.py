"""Interface of producers, which emit live events until cancelled and report their health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal, Protocol

import msgspec

from agent.core.events import Event
from agent.core.masking import mask
from agent.data.text import one_line

_LONGEST_ERROR: Final = 500

Emit = Callable[[Event], Awaitable[None] | None]
"""Accepts an event; if it returns an awaitable, the producer must wait for it."""

State = Literal["stopped", "connecting", "catching up", "live", "waiting", "disabled"]


class Health(msgspec.Struct):
    """State and counts of a producer since it was made. Times are UTC ms, 0 for never."""

    name: str
    state: State = "stopped"
    last_message_at: int = 0
    connects: int = 0
    reconnects: int = 0
    messages: int = 0
    bytes: int = 0
    gaps: int = 0
    duplicates: int = 0
    errors: int = 0
    last_error: str = ""
    last_error_at: int = 0

    def failed(self, error: object, at: int) -> None:
        """Count an error and keep its text as one line, without secrets and control characters."""
        self.errors += 1
        self.last_error = shown(error)
        self.last_error_at = at


def shown(error: object) -> str:
    """Return the text of an error, or its type if it has none, in a form that may be shown and stored."""
    return mask(one_line(str(error), _LONGEST_ERROR)) or type(error).__name__


class Producer(Protocol):
    """A source of live events."""

    name: str

    @property
    def health(self) -> Health:
        """A snapshot."""
        ...

    async def run(self, emit: Emit) -> None:
        """Emit events until cancelled; retry after failures outside instead of raising. May be called
        again.
        """
        ...


async def deliver(emit: Emit, event: Event) -> None:
    """Emit one event, and wait if the consumer requires it."""
    waiting = emit(event)
    if waiting is not None:
        await waiting
