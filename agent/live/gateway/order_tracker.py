"""Order lifecycle: submit each order exactly once, cancel, amend, and track it to its last fill.

A request to place an order that gets no response leaves its outcome unknown. The tracker queries the venue by
client id: an order that is found was placed; one that is still missing after the venue's views must have
caught up is sent again under the same id, so that it can't be placed twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Final, Never, TypeVar

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.core.durations import format_duration
from agent.core.events import (
    Amend,
    Cancel,
    Command,
    Decision,
    Event,
    Order,
    OrderStatus,
    OrderUpdate,
)
from agent.core.venue import OpenState
from agent.live.gateway.in_flight_order import InFlightOrder, InFlightState
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.trailing_stops import TrailingStops
from agent.live.gateway.venue_port import (
    AuthenticationError,
    ClockSkewError,
    Duplicate,
    Execution,
    OrderNotFound,
    OrderRejected,
    OutcomeUnknown,
    RateLimited,
    VenueOrder,
)

_MAX_LOOKUPS: Final = 3
"""After this many failed lookups of an accepted order, the venue has dropped it."""
_MAX_DOUBLINGS: Final = 5
"""The wait for missing fills doubles this often."""
_ZERO: Final = Decimal(0)
_Named = TypeVar("_Named", VenueOrder, Execution)
_RANK: Final = {OrderStatus.NEW: 0, OrderStatus.UNTRIGGERED: 0, OrderStatus.PARTIALLY_FILLED: 1}
_log: Final = structlog.get_logger(__name__)


class OrderTracker:
    """Owns the orders in flight, and turns each new order report of the venue into an event for the core.

    `past` is what earlier lives of the run have left, and `put` takes events. `fetch_missed` fetches
    executions that were not reported, `report_loss` is `Reconciler.report_loss`.
    """

    def __init__(
        self,
        client: ThrottledClient,
        config: Config,
        past: OpenState,
        put: Callable[[Event], None],
        fetch_missed: Callable[[], Awaitable[None]],
        report_loss: Callable[[int, int, int], None],
    ) -> None:
        settings = config.execution.testnet
        self.is_paused: Callable[[], bool] = _never
        """Returns whether orders must wait until the core has handled what the kill switch did."""
        self.ended: Counter[str] = Counter()  # orders that are not tracked any more, by final status
        self._client = client
        self._health = client.health
        self._put = put
        self._fetch_missed = fetch_missed
        self._report_loss = report_loss
        self._symbols = config.market.symbols
        # several sleeves trade one net position: the venue's reduce-only would act on the parts of others
        self._plain = bool(config.sleeves)
        self._caps_reductions = config.market.category != "spot" and not self._plain
        self._settle = settings.settle / 1000
        self._recv_window = settings.recv_window / 1000  # the venue refuses requests that arrive later
        self._ask_every = settings.ask_every / 1000
        self._expire_after = settings.expire_after
        self._max_skew = settings.max_skew
        self._orders = {one.order.id: InFlightOrder.restored(one) for one in past.orders}
        self._trailing_stops = TrailingStops(client, past, fetch_missed)
        self._decided: list[Order | Cancel | Amend] = []  # not committed yet
        self._untracked: list[str] = []  # ids of orders that have no task yet
        self._cancel_all_due = False
        self._work = asyncio.Event()  # set for one of the two

    # -- decisions -------------------------------------------------------------------------------------------

    def decision(self, decision: Decision) -> None:
        """Keep a decision about an order until `release`."""
        if isinstance(decision, Order | Cancel | Amend):
            self._decided.append(decision)
        elif isinstance(decision, OrderUpdate) and decision.status.final:  # perhaps it broke a rule of ours
            ended = decision.order_id
            self._decided = [d for d in self._decided if not (isinstance(d, Order) and d.id == ended)]

    def release(self) -> None:
        """Carry out the decisions so far: they are committed."""
        decided, self._decided = self._decided, []
        for decision in decided:
            if isinstance(decision, Order):
                order = InFlightOrder(decision, self._now())
                order.created_after = self._client.venue_time() - self._max_skew
                self._orders[decision.id] = order
                self._untracked.append(decision.id)
                self._work.set()
            elif (known := self._orders.get(decision.order_id)) is None:
                continue
            elif isinstance(decision, Cancel):
                known.cancel()
            else:
                known.amend(decision)

    def cancel_everything(self) -> None:
        """Cancel all orders of the traded symbols at the venue, whoever placed them."""
        self._cancel_all_due = True
        self._work.set()

    def recover(self) -> None:
        """Begin: the clock is synchronised, so that orders of earlier lives can be dated."""
        now, time = self._now(), self._client.clock.now()
        for order in self._orders.values():
            if order.state is InFlightState.WAITING:  # decided in this life
                continue
            decided_at = order.order.ts
            order.decided_at = now - max(0, time - decided_at) / 1000
            order.unknown_since = now
            if decided_at <= time:  # else the core's clock was wrong, and its time proves nothing
                order.created_after = decided_at + self._health.skew - self._max_skew

    async def run(self, tasks: asyncio.TaskGroup) -> Never:
        """Make a task of `tasks` for each order, and for what a kill cancels."""
        self._untracked = list(self._orders)
        while True:
            if self._cancel_all_due:
                self._cancel_all_due = False
                for symbol in self._symbols:
                    tasks.create_task(self._cancel_all(symbol))
            untracked, self._untracked = self._untracked, []
            for order_id in untracked:
                if (order := self._orders.get(order_id)) is not None:
                    tasks.create_task(self.track(order))
            self._work.clear()
            await self._work.wait()

    async def _cancel_all(self, symbol: str) -> None:
        try:
            await self._client.retry(partial(self._client.port.cancel_all, symbol))
        except OrderRejected as error:
            _log.error("not all orders could be cancelled", symbol=symbol, reason=error.message)

    # -- lifecycle -------------------------------------------------------------------------------------------

    async def track(self, order: InFlightOrder) -> None:
        """Drive an order until it has ended and all of its fills are known. It may be called again later.

        Raises AuthenticationError and SafetyError.
        """
        if order.state is InFlightState.SENDING:  # the last call was interrupted
            self._mark_unknown(order)
        while not order.done:
            order.changed.clear()
            if order.ended:
                await self._await_fills(order)
            elif order.state is InFlightState.ACCEPTED:
                await self._follow(order)
            else:
                await self._submit(order)

    async def query(self, order: InFlightOrder) -> None:
        """Query the state of an accepted order."""
        asked = self._now()
        found = await self._find(order)
        if found is not None:
            self.on_order(found)
        elif not order.ended and asked > max(order.accepted_at, order.lookup_failed_at) + self._settle:
            order.failed_lookups, order.lookup_failed_at = order.failed_lookups + 1, asked
            if order.failed_lookups >= _MAX_LOOKUPS:
                await self._fetch_missed()
                self._end(order, OrderStatus.CANCELLED, "the venue does not know it any more")

    async def _submit(self, order: InFlightOrder) -> None:
        if order.state is InFlightState.UNKNOWN and not await self._is_absent(order):
            return
        if order.cancelled:
            self._end(order, OrderStatus.CANCELLED, "cancelled before it arrived")
        elif self._is_expired(order):
            limit = format_duration(self._expire_after)
            self._end(order, OrderStatus.REJECTED, f"could not be sent within {limit} of its decision")
        elif self.is_paused():
            await order.wait_for_change(self._ask_every)
        else:
            await self._send(order)

    def _is_expired(self, order: InFlightOrder) -> bool:
        """True if it is too late to open a position. An order that reduces one never expires."""
        return not order.order.reduce_only and self._now() - order.decided_at > self._expire_after / 1000

    async def _is_absent(self, order: InFlightOrder) -> bool:
        """True once an order with unknown outcome is certainly not at the venue.

        To send it again, the venue's views must have caught up; if it arrived after all, its id is taken. To
        give it up, it must also be too late for a request that is still on its way.
        """
        while order.state is InFlightState.UNKNOWN:
            asked = self._now()
            found = await self._find(order)
            if found is not None:
                self.on_order(found)
                break
            given_up = order.cancelled or self._is_expired(order)
            wait = self._settle + (self._recv_window if given_up else 0.0)
            if asked >= (order.unknown_since or 0.0) + wait:
                return order.state is InFlightState.UNKNOWN
            await order.wait_for_change(self._ask_every)
        return False

    async def _send(self, order: InFlightOrder) -> None:
        if order.id_conflicts >= _MAX_LOOKUPS:
            await self._fetch_missed()
            self._reject_taken_id(order, "the venue says that its id is taken, and shows no order of it")
            return
        await self._client.wait_if_banned()
        if order.is_confirmed or order.cancelled or self._is_expired(order):  # meanwhile
            return
        order.state = InFlightState.SENDING
        order.attempts += 1
        self._health.sent += 1
        self._health.resent += order.attempts > 1 and order.unknown_since is not None
        syncs = self._client.clock_syncs
        try:
            await self._create(order)
        except OutcomeUnknown as error:
            self._health.unknown += 1
            self._mark_unknown(order)
            await self._client.handle_error(error)
        except Duplicate:
            self._health.existed += 1
            order.id_conflicts += 1
            self._mark_unknown(order)  # this order or another one has the id: the lookup compares them
        except (RateLimited, ClockSkewError) as error:
            order.mark_unsent()
            await self._client.handle_error(error, syncs)
        except AuthenticationError:
            order.mark_unsent()
            raise
        except OrderRejected as error:
            self._end(order, OrderStatus.REJECTED, error.message)
        else:
            if order.accept(self._now()) and order.last_status is None:
                order.last_status = OrderStatus.NEW
                self._put_update(order, OrderStatus.NEW, _ZERO, "", 0)

    async def _create(self, order: InFlightOrder) -> None:
        """Send the request to place an order."""
        if order.trails:
            await self._trailing_stops.place(order)
            self._end_replaced(order)
        else:
            sent = replace(order.order, reduce_only=False) if self._plain else order.order
            await self._client.port.create(sent)

    def _end_replaced(self, newer: InFlightOrder) -> None:
        """End the symbol's earlier trailing stops: the venue keeps one for each position."""
        for other in list(self._orders.values()):
            earlier = other.trails and other is not newer and other.order.symbol == newer.order.symbol
            if earlier and other.is_confirmed and not other.ended and not other.reported_filled:
                self._end(other, OrderStatus.CANCELLED, "replaced by a newer trailing stop")

    async def _cancel(self, order: InFlightOrder) -> None:
        """Send the cancel of an accepted order."""
        if order.trails:
            await self._trailing_stops.remove(order)
            await self.query(order)  # it ends once the venue's views no longer show it
        else:
            await self._client.retry(lambda: self._client.port.cancel(order.ref))

    def _mark_unknown(self, order: InFlightOrder) -> None:
        order.mark_unknown(self._now())

    async def _follow(self, order: InFlightOrder) -> None:
        """Take one step with an accepted order: send a cancel or an amendment, or wait for a report."""
        try:
            if order.cancelled and not order.cancel_sent:
                order.cancel_sent = True
                await self._cancel(order)
                return
            if order.new_qty is not None or order.new_price is not None:
                qty, price = order.take_amendment()
                await self._client.retry(lambda: self._client.port.amend(order.ref, qty=qty, price=price))
                return
        except OrderNotFound:
            await self.query(order)
            return
        except OrderRejected as error:
            _log.warning("a cancel or an amendment was rejected", order=order.order.id, reason=error.message)
            return
        overdue = self._settle if order.is_immediate or order.cancelled else None
        if not await order.wait_for_change(overdue):
            await self.query(order)
            order.cancel_sent = False  # if it is still there, cancel it again

    async def _await_fills(self, order: InFlightOrder) -> None:
        """Wait for fills of an order that has ended; fetch executions if they don't come."""
        if not await order.wait_for_change(self._settle * 2 ** min(order.failed_lookups, _MAX_DOUBLINGS)):
            order.failed_lookups += 1
            await self._fetch_missed()

    async def _find(self, order: InFlightOrder) -> VenueOrder | None:
        if order.trails:
            return await self._trailing_stops.find(order)
        return await self._client.retry(lambda: self._client.port.find(order.ref))

    def named(self, message: _Named) -> _Named:
        """Return a new report with our id if it is of an order that a trailing stop of ours has made."""
        return self._trailing_stops.named(message, self._orders.values())

    # -- order reports ---------------------------------------------------------------------------------------

    def on_order(self, found: VenueOrder) -> None:
        """Take an order as the venue has it. Older states and orders of others are ignored."""
        order = self._orders.get(found.client_id)
        if order is None or order.ended:
            return
        status = found.status
        if not order.is_confirmed:
            if difference := order.differs(found, caps_reductions=self._caps_reductions):
                detail = f"the venue has another order of this id: {difference}"
                self._reject_taken_id(order, detail, found.created)
                return
            conditional = order.order.trigger is not None and not order.trails
            if found.qty != order.order.qty and conditional and not status.final:
                order.new_qty = order.order.qty  # the core amended it while the gateway did not run
        order.accept(self._now())
        order.failed_lookups = 0
        if status.final:
            self._end(order, status, found.reason, filled=found.filled, ts=found.updated)
            return
        last = order.last_status
        if last is not None and _RANK[status] <= _RANK[last] and found.filled <= order.reported_filled:
            return
        order.last_status, order.reported_filled = status, max(found.filled, order.reported_filled)
        self._put_update(order, status, order.reported_filled, found.reason, found.updated)

    def _end(
        self, order: InFlightOrder, status: OrderStatus, reason: str, *, filled: Decimal = _ZERO, ts: int = 0
    ) -> None:
        if order.ended:
            return
        order.end(status, max(filled, order.reported_filled, order.executed_qty))
        self._put_update(order, status, order.reported_filled, reason, ts)
        self._drop_if_done(order)

    def _reject_taken_id(self, order: InFlightOrder, detail: str, created: int = 0) -> None:
        """End an order whose id another order has at the venue: the core decides again.

        `created` is the other's time, UTC ms.
        """
        if order.ended:
            return
        name, symbol, now = order.order.id, order.order.symbol, self._client.clock.now()
        self._health.taken_ids += 1
        _log.error("another order has this client order id", order=name, symbol=symbol, detail=detail)
        order.end(OrderStatus.REJECTED, order.executed_qty)
        self._drop_if_done(order)
        self._report_loss(1, 0, created or now)
        args = {"order": name, "symbol": symbol, "detail": detail}
        self._put(Command("taken-id", now, now, args, "gateway"))

    def _put_update(
        self, order: InFlightOrder, status: OrderStatus, filled: Decimal, reason: str, ts: int
    ) -> None:
        now, decided = self._client.clock.now(), order.order
        self._put(OrderUpdate(decided.id, decided.symbol, ts or now, now, status, filled, reason))

    def _drop_if_done(self, order: InFlightOrder) -> None:
        if (
            order.done
            and self._orders.pop(order.order.id, None) is not None
            and order.last_status is not None
        ):
            self.ended[order.last_status.value] += 1

    # -- executions ------------------------------------------------------------------------------------------

    def on_execution(self, execution: Execution) -> None:
        """Add an execution to its order, if that is in flight."""
        order = self._orders.get(execution.client_id)
        if order is not None:
            order.accept(self._now())
            order.executed_qty += execution.qty
            order.changed.set()
            self._drop_if_done(order)

    def is_of_another_order(self, execution: Execution) -> bool:
        """True if an execution is of another order under the id of one in flight."""
        order = self._orders.get(execution.client_id)
        return order is not None and order.cannot_be_of(execution)

    # -- state -----------------------------------------------------------------------------------------------

    def in_flight(self) -> list[InFlightOrder]:
        """Return the orders in flight."""
        return list(self._orders.values())

    def has_unknown_orders(self) -> bool:
        """True while it is not known of some order whether the venue has it."""
        return any(order.state is InFlightState.UNKNOWN for order in self._orders.values())

    def counts(self) -> dict[str, int]:
        """Return how many orders are in each state."""
        return dict(Counter(order.state.value for order in self._orders.values()))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _never() -> bool:
    return False
