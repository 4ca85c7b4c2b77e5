"""One order as the gateway knows it, from the decision to the last fill.

WAITING ──────> SENDING ──────> ACCEPTED ──────> ENDED
   │               │  ^             ^               ^
   │               v  │ resent      │ found         │
   │            UNKNOWN ────────────┘               │
   └── expired or cancelled before it was sent ─────┘
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from enum import Enum

from msgspec.structs import replace

from agent.core.events import Amend, Order, OrderStatus, OrderType, TimeInForce
from agent.core.venue import OpenOrder
from agent.live.gateway.venue_port import Execution, OrderRef, VenueOrder


class InFlightState(str, Enum):
    """State of an order in flight."""

    WAITING = "waiting"  # decided and committed, not sent
    SENDING = "sending"
    UNKNOWN = "unknown"  # sent; no response states whether it arrived
    ACCEPTED = "accepted"  # the venue has it
    ENDED = "ended"  # it can't be filled further; reports of fills may still arrive


class InFlightOrder:
    """An order that the core has decided, and what the gateway knows about it.

    Times are seconds of the event loop's clock unless stated otherwise.
    """

    def __init__(self, order: Order, decided_at: float, state: InFlightState = InFlightState.WAITING) -> None:
        self.order = order  # as amended
        self.original = order  # as decided
        self.decided_at = decided_at
        # UTC ms by the venue's clock: an order that the venue created before is another one; 0: not known
        self.created_after = 0
        self.state = state
        self.changed = asyncio.Event()  # set by each decision or report about it
        self.attempts = 0  # requests to place it
        self.unknown_since: float | None = None  # when a request to place it last ended without a response
        self.accepted_at = 0.0
        self.cancelled = False  # the core has cancelled it
        self.cancel_sent = False
        self.new_qty: Decimal | None = None  # an amendment that is still to be sent
        self.new_price: Decimal | None = None
        self.id_conflicts = 0  # times that its id was taken, and no order was found under it
        # lookups that did not find an accepted order, or the fills of one that has ended
        self.failed_lookups = 0
        self.lookup_failed_at = 0.0
        self.last_status: OrderStatus | None = None  # as the core was last informed
        self.reported_filled = Decimal(0)  # by the venue's order updates
        self.executed_qty = Decimal(0)  # by executions

    @classmethod
    def restored(cls, past: OpenOrder) -> InFlightOrder:
        """Make the record of an order of an earlier life; only the venue knows whether it was sent."""
        record = cls(past.order, 0.0, InFlightState.ENDED if past.ended else InFlightState.UNKNOWN)
        record.cancelled = past.cancelling
        record.executed_qty = past.executed_qty
        record.reported_filled = past.order.qty if past.ended else past.reported_filled
        return record

    # -- what is known ---------------------------------------------------------------------------------------

    @property
    def ref(self) -> OrderRef:
        """Its name at the venue, by our id."""
        return OrderRef(self.order.symbol, self.order.id)

    @property
    def trails(self) -> bool:
        """True for a trailing stop, which the venue keeps with the position: it has no name there."""
        return self.order.type is OrderType.TRAILING_STOP

    @property
    def is_confirmed(self) -> bool:
        """True if the order that the venue has under this id is known to be this one."""
        return self.state in (InFlightState.ACCEPTED, InFlightState.ENDED)

    @property
    def ended(self) -> bool:
        """True if it can't be filled further."""
        return self.state is InFlightState.ENDED

    @property
    def done(self) -> bool:
        """True if it has ended and all of its executions are known."""
        return self.ended and self.executed_qty >= self.reported_filled

    @property
    def is_immediate(self) -> bool:
        """True if the venue ends it at once and cancels what isn't filled then."""
        order = self.order
        return order.trigger is None and (
            order.type is OrderType.MARKET or order.tif in (TimeInForce.IOC, TimeInForce.FOK)
        )

    def differs(self, found: VenueOrder, *, caps_reductions: bool) -> str:
        """Return what shows that `found`, an order under the same id, is another one; empty if nothing does.

        The quantity of a protective order follows the position, and a venue may reduce a reduce-only order.
        Unless it `caps_reductions`, it has no reduce-only orders: on spot, and of several sleeves.
        """
        order = self.order
        quantities = (self.original.qty, order.qty)
        prices = (None, self.original.price, order.price)
        any_qty = order.trigger is not None
        same_qty = found.qty in quantities or (order.reduce_only and found.qty <= max(quantities))
        same_type = (found.type is OrderType.LIMIT) == (order.type is OrderType.LIMIT)
        same_kind = not caps_reductions or found.reduce_only is order.reduce_only
        checks = (
            ("symbol", found.symbol, order.symbol, found.symbol == order.symbol),
            ("side", found.side.value, order.side.value, found.side is order.side),
            ("quantity", found.qty, order.qty, any_qty or same_qty),
            ("type", found.type.value, order.type.value, same_type),
            ("price", found.price, order.price, found.price in prices),
            ("trigger", found.trigger, order.trigger, self.trails or found.trigger in (None, order.trigger)),
            ("reduce-only", found.reduce_only, order.reduce_only, same_kind),
            (
                "time",
                found.created,
                self.created_after,
                not found.created or found.created >= self.created_after,
            ),
        )
        return ", ".join(
            f"{name} {theirs} instead of {ours}" for name, theirs, ours, same in checks if not same
        )

    def cannot_be_of(self, execution: Execution) -> bool:
        """True if an execution under the same id is certainly of another order."""
        order, e = self.order, execution
        same = e.symbol == order.symbol and e.side is order.side and e.ts >= self.created_after
        return not (self.is_confirmed or same)

    # -- transitions -----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Note that the core has cancelled it."""
        self.cancelled = True
        self.changed.set()

    def amend(self, amend: Amend) -> None:
        """Change quantity or price; if the order may have been sent, the amendment has to be sent, too."""
        order = self.order
        qty = order.qty if amend.qty is None else amend.qty
        price = order.price if amend.price is None else amend.price
        self.order = replace(order, qty=qty, price=price)
        if (self.attempts or self.state is not InFlightState.WAITING) and not self.trails:
            self.new_qty = self.new_qty if amend.qty is None else amend.qty
            self.new_price = self.new_price if amend.price is None else amend.price
        self.changed.set()

    def take_amendment(self) -> tuple[Decimal | None, Decimal | None]:
        """Return quantity and price that are still to be sent, and forget them."""
        qty, price, self.new_qty, self.new_price = self.new_qty, self.new_price, None, None
        return qty, price

    def mark_unknown(self, now: float) -> None:
        """Note a request without a response: unless a report has confirmed the order, it may be there."""
        if self.state is InFlightState.SENDING:
            self.state = InFlightState.UNKNOWN
        self.unknown_since = now

    def mark_unsent(self) -> None:
        """Note that this request was not carried out; an earlier one may have been."""
        if self.state is InFlightState.SENDING:
            self.state = InFlightState.WAITING if self.unknown_since is None else InFlightState.UNKNOWN

    def accept(self, now: float) -> bool:
        """Note that the venue has it. Returns whether that is new."""
        if self.is_confirmed:
            return False
        self.state = InFlightState.ACCEPTED
        self.accepted_at = now
        self.changed.set()
        return True

    def end(self, status: OrderStatus, filled: Decimal) -> None:
        """Note its final status and filled quantity."""
        self.state, self.last_status, self.reported_filled = InFlightState.ENDED, status, filled
        self.changed.set()

    async def wait_for_change(self, seconds: float | None) -> bool:
        """Wait up to `seconds` for a decision or report about it; False on timeout."""
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True
