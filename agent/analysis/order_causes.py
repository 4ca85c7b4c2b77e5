"""Which headlines led to an order: those of the signal of its symbol that the same event brought."""

from __future__ import annotations

from agent.core.events import Decision, Order, Signal


class OrderCauses:
    """Add the decisions of a run in their order; `sources` then has the headlines of each order."""

    def __init__(self) -> None:
        self.sources: dict[str, tuple[str, ...]] = {}
        """Client order id -> ids of the headlines, for orders that followed a signal in the same event."""
        self._latest: dict[str, tuple[int, tuple[str, ...]]] = {}  # by symbol: event, headlines

    def add(self, event_seq: int, decision: Decision) -> None:
        """Note a signal, or an order's headlines; other decisions are ignored."""
        if isinstance(decision, Signal):
            self._latest[decision.symbol] = event_seq, decision.sources
        elif isinstance(decision, Order):
            signalled, headlines = self._latest.get(decision.symbol, (None, ()))
            if signalled == event_seq:
                self.sources[decision.id] = headlines
