"""Who hears of what happens in an account."""

from __future__ import annotations

from typing import Protocol

from agent.sandbox.desk import Leg
from agent.sandbox.executions import Execution
from agent.sandbox.orders import VenueOrder


class Audience(Protocol):
    """Who hears of the account's changes: the private WebSocket."""

    def on_order(self, order: VenueOrder) -> None:
        """An order has changed."""
        ...

    def on_execution(self, execution: Execution) -> None:
        """Something was executed."""
        ...

    def on_position(self, leg: Leg) -> None:
        """A position has changed, or an order in it."""
        ...

    def on_wallet(self) -> None:
        """A balance has changed."""
        ...
