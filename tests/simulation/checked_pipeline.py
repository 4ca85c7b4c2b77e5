"""The product's queue and pipeline with invariant checks at every step."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from agent.core.events import Decision, Event, Gap, Kline
from agent.live.event_queue import EventQueue
from agent.live.formatting import one_line_summary
from agent.live.pipeline import Pipeline, Urgent
from tests.simulation.invariants import require

if TYPE_CHECKING:
    from tests.simulation.simulation_harness import SimulationHarness


class CheckedQueue(EventQueue):
    """Checks that the bars of each symbol are taken in the order of their arrival."""

    harness: SimulationHarness

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrived: dict[
            int, tuple[int, Event]
        ] = {}  # by id(); holds the event so that its id is not reused
        self._counter = count()
        self._last: dict[str, int] = {}

    def emit(self, event: Event) -> Awaitable[None] | None:
        self._note(event)
        return super().emit(event)

    async def put(self, event: Event) -> None:
        self._note(event)
        await super().put(event)

    def _note(self, event: Event) -> None:
        if isinstance(event, Kline):
            self._arrived[id(event)] = next(self._counter), event

    async def take(self, limit: int) -> list[tuple[Event, float]]:
        taken = await super().take(limit)
        for event, _ in taken:
            if isinstance(event, Kline):
                self.harness.run_check(self._check, event)
        return taken

    def _check(self, bar: Kline) -> None:
        number, _ = self._arrived[id(bar)]
        require(number > self._last.get(bar.symbol, -1), f"a later bar of the symbol was taken before: {bar}")
        self._last[bar.symbol] = number


class CheckedPipeline(Pipeline):
    """Pipeline that checks the invariants of its harness around every event."""

    harness: SimulationHarness

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invariants = self.harness.invariants
        engine: Any = self.engine  # with sleeves or without
        self.invariants.engine = engine
        self._run_observers.append(self)  # from the first event of the journal
        self.observers.append(self)

    def _fold(self) -> None:
        super()._fold()
        require("is not the state" not in self.snapshots.status.problem, self.snapshots.status.problem)
        self.invariants.live = True

    async def feed(self, taken: Sequence[tuple[Event, float]], urgent: Urgent | None = None) -> list[Event]:
        """Feed events. Some lives end right after a gap, before the bar that revealed it."""
        if isinstance(taken[-1][0], Gap):
            self.harness.store.maybe_die_after_next_commit(self.harness.rates.dies_at_gap)
        return await super().feed(taken, urgent)

    def event(self, seq: int, event: Event) -> None:
        """Do nothing: at this point the event has not been handled; `_handle` does the checks."""

    def decision(self, seq: int, decision: Decision) -> None:
        """Check a decision."""
        if self.invariants.live:
            self.harness.log(f"    {one_line_summary(decision)}")
        self.harness.run_check(self.invariants.on_decision, decision)

    def _handle(self, seq: int, event: Event) -> None:
        if self.invariants.live:
            self.harness.log(f"{seq}: {one_line_summary(event)}")
            self.harness.run_check(self.harness.store.check_loss_is_reported, event)
        self.harness.run_check(self.invariants.before_event, event)
        super()._handle(seq, event)
        self.harness.run_check(self.invariants.after_event, event)
