"""What is to become of an order: from the decision to the end, each step known or known to be unknown.

WAITING ──────> SENDING ──────> ACCEPTED ──────> ENDED
   │               │  ^             ^               ^
   │               v  │ resend      │ found         │
   │            UNKNOWN ────────────┘               │
   └── too old, or taken back: never sent ──────────┘
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum

from agent.core.events import Order, OrderStatus, OrderType, TimeInForce
from agent.live.gateway.venue_port import OrderRef, VenueOrder


class IntentState(str, Enum):
    """Where an intent is."""

    WAITING = "waiting"  # decided and durable, not sent
    SENDING = "sending"
    UNKNOWN = "unknown"  # sent, and no answer came that says whether it arrived
    ACCEPTED = "accepted"  # the venue has it
    ENDED = "ended"  # it can't be filled any more; fills may still be under way to us


class Intent:
    """One order of the core, and what the gateway knows of it. Moments are of the event loop's clock, in seconds."""

    def __init__(self, order: Order, since: float, state: IntentState = IntentState.WAITING) -> None:
        self.order = order  # as amended
        self.decided = order  # as it was at first
        # an order that was created before is another one; UTC ms by the venue's clock, 0: not known
        self.after = 0
        self.since = since  # when it was decided
        self.state = state
        self.changed = asyncio.Event()  # something was decided or told about it
        self.attempts = 0
        self.doubted_at: float | None = None  # when a request to place it last ended without an answer
        self.accepted_at = 0.0
        self.cancelled = False  # the core wants it back
        self.cancel_asked = False  # and the venue was told so
        self.amend_qty: Decimal | None = None  # still to be asked for
        self.amend_price: Decimal | None = None
        self.taken = 0  # times that its id was another order's, or its own, and no order was found
        self.missed_at = 0.0
        # looks in vain: for an order that was accepted, or for the fills of one that has ended
        self.missed = 0
        self.status: OrderStatus | None = None  # as it was told to the core
        self.filled = Decimal(0)  # by the venue's updates
        self.booked = Decimal(0)  # by executions that were told

    @property
    def ref(self) -> OrderRef:
        """Its name at the venue: by our id, whatever the venue calls it."""
        return OrderRef(self.order.symbol, self.order.id)

    @property
    def certain(self) -> bool:
        """Whether the order that the venue has under this id is known to be this one."""
        return self.state in (IntentState.ACCEPTED, IntentState.ENDED)

    def differs(self, found: VenueOrder, *, spot: bool) -> str:
        """What shows that an order under the same id is another one; empty if nothing does.

        What protects a position follows it in its quantity, a venue may cut down an order that only reduces, and on spot no order
        only reduces.
        """
        order, versions = self.order, (self.decided, self.order)
        quantities = [version.qty for version in versions]
        most = max(quantities)
        flaws = (
            ("symbol", found.symbol, order.symbol, found.symbol == order.symbol),
            ("side", found.side.value, order.side.value, found.side is order.side),
            (
                "quantity",
                found.qty,
                order.qty,
                order.trigger is not None
                or found.qty in quantities
                or (order.reduce_only and found.qty <= most),
            ),
            ("type", found.type.value, order.type.value, _is_limit(found) == (order.type is OrderType.LIMIT)),
            (
                "price",
                found.price,
                order.price,
                found.price is None or found.price in [v.price for v in versions],
            ),
            ("trigger", found.trigger, order.trigger, found.trigger in (None, order.trigger)),
            (
                "reduce-only",
                found.reduce_only,
                order.reduce_only,
                spot or found.reduce_only is order.reduce_only,
            ),
            ("time", found.created, self.after, not found.created or found.created >= self.after),
        )
        return ", ".join(
            f"{name} {theirs} instead of {ours}" for name, theirs, ours, same in flaws if not same
        )

    @property
    def ended(self) -> bool:
        """No more fills can happen."""
        return self.state is IntentState.ENDED

    @property
    def done(self) -> bool:
        """It has ended and all of its fills were told."""
        return self.ended and self.booked >= self.filled

    @property
    def immediate(self) -> bool:
        """Whether the venue ends it at once: what isn't filled then is cancelled."""
        order = self.order
        return order.trigger is None and (
            order.type is OrderType.MARKET or order.tif in (TimeInForce.IOC, TimeInForce.FOK)
        )


def _is_limit(order: VenueOrder) -> bool:
    return order.type is OrderType.LIMIT


class Intents:
    """Those of which more may be heard, by id; `ended` counts the others by their last status."""

    def __init__(self) -> None:
        self._open: dict[str, Intent] = {}
        self.ended: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, intent: Intent) -> None:
        """Watch one more."""
        self._open[intent.order.id] = intent

    def get(self, order_id: str) -> Intent | None:
        """By its order's id."""
        return self._open.get(order_id)

    def all(self) -> list[Intent]:
        """All of them."""
        return list(self._open.values())

    def forget_done(self, intents: Iterable[Intent]) -> None:
        """Of those that are over nothing more is expected."""
        for intent in intents:
            if (
                intent.done
                and self._open.pop(intent.order.id, None) is not None
                and intent.status is not None
            ):
                self.ended[intent.status.value] += 1

    def counts(self) -> dict[str, int]:
        """How many are in each state."""
        return dict(Counter(intent.state.value for intent in self._open.values()))
