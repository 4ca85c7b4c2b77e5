"""The recorded history of a run's orders: fills, changes of state, and the round trips that they made."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

import msgspec

from agent.analysis.trades import RoundTrip, round_trips
from agent.core.errors import UsageError
from agent.core.events import (
    Amend,
    Cancel,
    Fill,
    FillKind,
    FundingPayment,
    Order,
    OrderStatus,
    OrderUpdate,
)
from agent.core.exchange import ID_PREFIX
from agent.store.database import Database
from agent.store.queries import read_decisions
from agent.store.runs import Run

_TRIP: Final = re.compile(r"t(\d+)")


class OrderRecord(msgspec.Struct):
    """What the record has of one order. `number` counts the run's orders from 1.

    `attached` are the ids of the orders that protect the position which this one opened. `crossed` are by id
    of its internal fills the ids of the other sleeves' orders that they met.
    """

    number: int
    event_seq: int
    order: Order
    fills: list[Fill] = []
    updates: list[OrderUpdate] = []
    cancels: list[Cancel] = []
    amends: list[Amend] = []
    attached: list[str] = []
    crossed: dict[str, str] = {}

    @property
    def filled(self) -> Decimal:
        """Filled quantity."""
        return sum((fill.qty for fill in self.fills), Decimal(0))

    @property
    def average_price(self) -> Decimal | None:
        """Average price of the fills; None without any."""
        value = sum((fill.qty * fill.price for fill in self.fills), Decimal(0))
        return value / self.filled if self.filled else None

    @property
    def end(self) -> OrderUpdate | None:
        """The update that ended the order; None if it worked at the end of the record."""
        return next((update for update in reversed(self.updates) if update.status.final), None)


class OrderHistory(msgspec.Struct):
    """All orders of a run by id, in order, and its round trips in order of entry."""

    run: str
    orders: dict[str, OrderRecord]
    trips: list[RoundTrip]

    def find(self, which: str) -> list[OrderRecord]:
        """Return the orders that `which` names: a number, an id or its first characters, or a round trip.

        `t3` is the third round trip in order of entry: its first entry and its last exit. Raises UsageError
        unless exactly one order or round trip matches.
        """
        if trip := _TRIP.fullmatch(which):
            return self._of_trip(int(trip[1]))
        if which.isdecimal():
            found = [one for one in self.orders.values() if one.number == int(which)]
        else:
            prefixes = which, f"{ID_PREFIX}{which}"
            found = [one for name, one in self.orders.items() if name.startswith(prefixes)]
            found = [one for one in found if one.order.id in prefixes] or found
        if len(found) == 1:
            return found
        if found:
            ids = ", ".join(one.order.id for one in found[:5])
            raise UsageError(f"{len(found):,} orders of run {self.run} begin with {which!r}", hint=ids)
        hint = (
            f"a number from 1 to {len(self.orders):,}, an id, or t1 to t{len(self.trips):,} for a round trip"
        )
        if not self.orders:
            hint = "the run placed no orders"
        raise UsageError(f"run {self.run} has no order {which!r}", hint=hint)

    def trip_of(self, order_id: str) -> int | None:
        """Return the number of the round trip that the order began or ended; None if it did neither."""
        for number, trip in enumerate(self.trips, 1):
            if order_id in (trip.entry_order, trip.exit_order):
                return number
        return None

    def _of_trip(self, number: int) -> list[OrderRecord]:
        if not 0 < number <= len(self.trips):
            hint = f"it has t1 to t{len(self.trips):,}" if self.trips else "it has none"
            raise UsageError(f"run {self.run} has no round trip t{number}", hint=hint)
        trip = self.trips[number - 1]
        ids = dict.fromkeys((trip.entry_order, trip.exit_order))
        return [self.orders[one] for one in ids if one in self.orders]


def order_history(database: Database, run: Run) -> OrderHistory:
    """Read the orders of a run. Raises StoreError."""
    orders: dict[str, OrderRecord] = {}
    moves: list[Fill | FundingPayment] = []
    first: Fill | None = None  # of two internal fills, which are booked one after the other
    for item in read_decisions(database, run.id):
        decision = item.decision
        if isinstance(decision, Order):
            orders[decision.id] = OrderRecord(len(orders) + 1, item.event_seq, decision)
            if decision.oco in orders:
                orders[decision.oco].attached.append(decision.id)
        elif isinstance(decision, (Fill, FundingPayment)):
            moves.append(decision)
        record = orders.get(getattr(decision, "order_id", ""))
        if record is None:
            continue
        if isinstance(decision, Fill):
            record.fills.append(decision)
            if decision.kind is FillKind.INTERNAL and first is None:
                first = decision
            elif decision.kind is FillKind.INTERNAL and first is not None:
                record.crossed[decision.id] = first.order_id
                orders[first.order_id].crossed[first.id] = decision.order_id
                first = None
        elif isinstance(decision, OrderUpdate):
            record.updates.append(decision)
        elif isinstance(decision, Cancel):
            record.cancels.append(decision)
        elif isinstance(decision, Amend):
            record.amends.append(decision)
    trips = sorted(round_trips(moves), key=lambda trip: (trip.entry_ts, trip.symbol))
    return OrderHistory(run.id, orders, trips)


def describe_end(record: OrderRecord) -> str:
    """State what ended an order."""
    end = record.end
    if end is None:
        return "it was still working at the end of the record"
    why = f": {end.reason}" if end.reason else ""
    if end.status is OrderStatus.CANCELLED and not why:
        why = next((f": {cancel.reason}" for cancel in record.cancels if cancel.reason), "")
    return f"{end.status.value.lower().replace('_', ' ')}{why}"
