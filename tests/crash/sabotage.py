"""The harness against a product with one fault put into it: it must find that. `python -m tests.crash.sabotage NAME --kills 20`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from agent.events import Event
from agent.live.core import Core
from agent.store.journal import Journal
from tests.crash.__main__ import main


def journal_lags_behind() -> None:
    """What is handled is committed with the next events, as if by a writer that saves transactions."""
    append, behind = Journal.append, list[Event]()

    def late(self: Journal, events: Sequence[Event]) -> int:
        first = self.last_seq + len(behind) + 1
        append(self, behind)
        behind[:] = events
        return first

    Journal.append = late  # type: ignore[method-assign]


def headlines_that_waited_are_forgotten() -> None:
    """A restart does not score what was journalled, but not scored."""

    def fold(self: Core) -> None:
        original(self)
        self.memory.unscored.clear()

    original, Core._fold = Core._fold, fold  # type: ignore[method-assign]


def order_ids_begin_again() -> None:
    """A restart counts its decisions from one: client order ids come twice."""

    def fold(self: Core) -> None:
        original(self)
        self.engine._ids = 0

    original, Core._fold = Core._fold, fold  # type: ignore[method-assign]


def journal_is_not_folded() -> None:
    """A restart begins with an empty account."""
    Core._fold = lambda self: None  # type: ignore[method-assign]


FAULTS: Final[dict[str, Callable[[], Any]]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (journal_lags_behind, journal_is_not_folded, headlines_that_waited_are_forgotten, order_ids_begin_again)
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    sys.exit(main())
