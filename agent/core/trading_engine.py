"""What the shells around the core use of an engine: `Engine` has it, and `SleevedEngine` for several
strategies in one account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.core.events import Event
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.risk import RiskManager
from agent.core.signals import SignalEngine


class TradedSymbol(Protocol):
    """State of one symbol."""

    @property
    def instrument(self) -> Instrument:
        """Its trading rules."""
        ...

    @property
    def interval(self) -> int:
        """Length of its bars in ms."""
        ...

    @property
    def position(self) -> Position:
        """The account's position, at the last mark."""
        ...

    @property
    def book(self) -> Sequence[WorkingOrder]:
        """The working orders."""
        ...

    @property
    def last_start(self) -> int:
        """Start of the last bar (UTC ms); -1 before the first."""
        ...

    def overdue(self, now: int) -> int:
        """Return by how many ms the next bar is late at `now`."""
        ...


class Moment(Protocol):
    """The core's time."""

    @property
    def now(self) -> int:
        """Time of the last event (UTC ms)."""
        ...


class Closing(Protocol):
    """Positions that are being closed."""

    @property
    def open(self) -> list[str]:
        """Their symbols, sorted."""
        ...


class TradingEngine(Protocol):
    """Handles events in their total order and emits decisions.

    Portfolio, risk and states are the account's. What each strategy has of its own is in the engines that
    `agent.core.sleeves.engines_of` returns.
    """

    @property
    def portfolio(self) -> Portfolio:
        """The account's ledger."""
        ...

    @property
    def risk(self) -> RiskManager:
        """The account's risk state and limits."""
        ...

    @property
    def signals(self) -> SignalEngine:
        """The signals of all traded symbols."""
        ...

    @property
    def states(self) -> Mapping[str, TradedSymbol]:
        """The traded symbols."""
        ...

    @property
    def market(self) -> Moment:
        """The core's time."""
        ...

    @property
    def flattener(self) -> Closing:
        """Positions that are being closed."""
        ...

    @property
    def version(self) -> dict[str, str]:
        """Arguments of the last `use-strategy`; empty before the first, and with sleeves, whose engines have
        their own.
        """
        ...

    @property
    def version_since(self) -> int:
        """UTC ms of that command."""
        ...

    @property
    def counts(self) -> Counter[str]:
        """Number of ignored inputs by reason."""
        ...

    @property
    def failures(self) -> dict[str, str]:
        """Errors of strategies that have yet to be reported, by the name of the sleeve ("" without)."""
        ...

    def handle(self, event: Event) -> None:
        """Handle one event."""
        ...

    def outdated(self, now: int) -> set[str]:
        """Return the symbols whose staleness a heartbeat at `now` (UTC ms) would change."""
        ...

    def is_heartbeat_due(self, now: int) -> bool:
        """Return whether a heartbeat at `now` (UTC ms) would advance the closing of a position."""
        ...

    def finish(self) -> None:
        """Close the last bar period. Raises ReconciliationError if the ledger does not add up."""
        ...
