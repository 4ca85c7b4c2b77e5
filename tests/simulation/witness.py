"""The product's queue and core with somebody beside them who looks at every step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from agent.core.events import Decision, Event, Gap, Kline
from agent.live.event_queue import EventQueue
from agent.live.formatting import sentence
from agent.live.pipeline import Core, Urgent
from tests.simulation.invariants import hold

if TYPE_CHECKING:
    from tests.simulation.world import World


class CheckedQueue(EventQueue):
    """Of each symbol the bars are taken as they arrived, whatever was left out between them."""

    world: World

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by identity; the event, lest its identity be another's
        self._arrived: dict[int, tuple[int, Event]] = {}
        self._counter = count()
        self._last: dict[str, int] = {}

    async def put(self, event: Event) -> None:
        """As the product's, numbered."""
        if isinstance(event, Kline):
            self._arrived[id(event)] = next(self._counter), event
        await super().put(event)

    async def take(self, limit: int) -> list[tuple[Event, float]]:
        """As the product's, checked."""
        taken = await super().take(limit)
        for event, _ in taken:
            if isinstance(event, Kline):
                self.world.checked(self._check, event)
        return taken

    def _check(self, bar: Kline) -> None:
        number, _ = self._arrived[id(bar)]
        hold(number > self._last.get(bar.symbol, -1), f"a later bar of its symbol was taken before: {bar}")
        self._last[bar.symbol] = number


class CheckedCore(Core):
    """The core, with the invariants of its world looked at around every event."""

    world: World

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invariants = self.world.invariants
        self.invariants.engine = self.engine
        self._run_observers.append(self)  # from the first event of the journal on
        self.observers.append(self)

    def _fold(self) -> None:
        super()._fold()
        hold("is not the state" not in self.snapshots.status.problem, self.snapshots.status.problem)
        self.invariants.live = True

    async def feed(self, taken: Sequence[tuple[Event, float]], urgent: Urgent | None = None) -> list[Event]:
        """As the product's; some lives end right behind a gap, between it and the bar that has shown it."""
        if isinstance(taken[-1][0], Gap):
            self.world.store.perhaps_end_with(self.world.weather.dies_at_gap)
        return await super().feed(taken, urgent)

    def event(self, seq: int, event: Event) -> None:
        """The product's watchers hear of events that are not handled yet; what follows happens in `_handle`."""

    def decision(self, seq: int, decision: Decision) -> None:
        """Checked as it is taken."""
        if self.invariants.live:
            self.world.say(f"    {sentence(decision)}")
        self.world.checked(self.invariants.decision, decision)

    def _handle(self, seq: int, event: Event) -> None:
        if self.invariants.live:
            self.world.say(f"{seq}: {sentence(event)}")
            self.world.checked(self.world.store.handled, event)
        self.world.checked(self.invariants.before, event)
        super()._handle(seq, event)
        self.world.checked(self.invariants.after, event)
