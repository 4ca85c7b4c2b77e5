"""Trailing stops of positions: the venue keeps them with the position, under no client id.

The core's order of a trailing stop is set by `set_trailing_stop`. Once it is triggered, the venue makes an
order of its own; its reports are given the id of the core's order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Final, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from agent.core.events import OrderStatus, OrderType
from agent.core.venue import OpenState
from agent.live.gateway.in_flight_order import InFlightOrder
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import Execution, OrderNotFound, VenueOrder

_ZERO: Final = Decimal(0)
_Named = TypeVar("_Named", VenueOrder, Execution)


class TrailingStops:
    """Sends the requests for trailing stops, and names the orders that they make.

    `past` is what earlier lives of the run have left, and `fetch_missed` fetches executions that were not
    reported.
    """

    def __init__(
        self, client: ThrottledClient, past: OpenState, fetch_missed: Callable[[], Awaitable[None]]
    ) -> None:
        self._client = client
        self._fetch_missed = fetch_missed
        self._last: dict[str, str] = {}  # symbol -> id of the last one that was sent
        for one in past.orders:
            if one.order.type is OrderType.TRAILING_STOP:
                self._last[one.order.symbol] = one.order.id
        self._names: dict[str, str] = {}  # venue's id of an order that one has made -> our id

    async def place(self, order: InFlightOrder) -> None:
        """Send the request for a trailing stop, which replaces the position's. Raises PortError."""
        placed = order.order
        if placed.trail is not UNSET:
            self._last[placed.symbol] = placed.id
            await self._client.port.set_trailing_stop(placed.symbol, placed.trail)

    async def remove(self, order: InFlightOrder) -> None:
        """Remove a trailing stop, unless a newer one has replaced it."""
        symbol = order.order.symbol
        if self._last.get(symbol) == order.order.id:
            with suppress(OrderNotFound):  # no position: it has been closed, perhaps by this stop
                await self._client.retry(lambda: self._client.port.set_trailing_stop(symbol, _ZERO))

    async def find(self, order: InFlightOrder) -> VenueOrder | None:
        """Return a trailing stop as the venue has it, or the order that it has made."""
        symbol, since = order.order.symbol, order.created_after
        found = await self._client.retry(lambda: self._client.port.find_trailing_stop(symbol, since))
        if found is None or self._last.get(symbol) != order.order.id:
            return None
        if found.status is OrderStatus.UNTRIGGERED:
            # otherwise it is an earlier one, or one that was set by hand
            return replace(found, client_id=order.order.id) if found.trail == order.order.trail else None
        if found.id not in self._names:
            await self._fetch_missed()  # whose executions are new, so that they name their order
        return (
            replace(found, client_id=order.order.id) if self._names.get(found.id) == order.order.id else None
        )

    def named(self, message: _Named, in_flight: Iterable[InFlightOrder]) -> _Named:
        """Return a report with our id if it is of an order that a trailing stop of ours has made.

        Pass only reports that are new: an order belongs to the trailing stop that works, and its executions
        perhaps to an earlier one whose fills are still missing.
        """
        if not message.trailing or message.client_id:
            return message
        venue_id = message.id if isinstance(message, VenueOrder) else message.order_id
        name = self._names.get(venue_id, "")
        if not name and isinstance(message, Execution):
            missing = (o for o in in_flight if o.trails and o.ended and not o.done)
            name = next((o.order.id for o in missing if o.order.symbol == message.symbol), "")
        name = name or self._last.get(message.symbol, "")
        if name and venue_id:
            self._names[venue_id] = name
        return replace(message, client_id=name) if name else message
