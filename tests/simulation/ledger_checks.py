"""Invariants of fills and orders, for the paper exchange and for a venue with its own record."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Any, Final

from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    FundingPayment,
    Order,
    OrderType,
    RiskEvent,
    RiskState,
)
from agent.core.orders import WorkingOrder
from agent.core.venue import VenueExchange
from agent.live.gateway.venue_port import Execution, ExecutionKind
from tests.simulation.generated_data import SYMBOLS
from tests.simulation.invariants import Invariants, require
from tests.simulation.simulated_venue import COIN, SimulatedVenue

_PROTECTIVE: Final = (OrderType.STOP, OrderType.TAKE_PROFIT, OrderType.TRAILING_STOP)
CENT: Final = Decimal("0.01")
_ZERO: Final = Decimal(0)
_REQUEST_GRACE: Final = 30.0  # seconds within which a decision about an order takes effect without faults
_HALT_GRACE: Final = 60.0  # seconds after a halt from which on no entry may be sent


class PaperInvariants(Invariants):
    """Paper exchange: a final state is final at once, and no position grows while halted."""

    def _check_fill(self, fill: Fill) -> None:
        held = self._positions[fill.symbol]
        signed = fill.side.sign * fill.qty
        if fill.order_id in self.orders:
            order = self.orders[fill.order_id]
            require(
                (order.symbol, order.side) == (fill.symbol, fill.side),
                f"fill does not match its order: {fill} of {order}",
            )
            require(fill.order_id not in self.ended, f"fill after the order's final state: {fill}")
            filled = self._filled.get(fill.order_id, _ZERO) + fill.qty
            # protection closes the current position
            whole = order.reduce_only and order.type in _PROTECTIVE
            require(whole or filled <= order.qty, f"filled more than ordered: {fill} of {order}")
            shrinks = held * signed < 0 and abs(signed) <= abs(held)
            require(shrinks or not order.reduce_only, f"reduce-only order does not reduce {held}: {fill}")
        if self._state is RiskState.HALTED:
            require(abs(held + signed) < abs(held), f"position of {held} grows while halted: {fill}")

    def _check_payment(self, payment: FundingPayment) -> None:
        require(
            payment.qty == self._positions[payment.symbol],
            f"funding on a position that is not held: {payment}",
        )

    def _is_over(self, order_id: str) -> bool:
        return order_id in self.ended

    def _may_open(self, working: WorkingOrder) -> bool:
        return not working.order.reduce_only


class VenueInvariants(Invariants):
    """Venue: reports arrive late and in any order. Each fill must match the venue's record, and in the end
    all fills must be booked.
    """

    def __init__(self, venue: SimulatedVenue, store: Path, restored: bool, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self._restored = restored  # an older store was restored: the venue has orders unknown to it
        self._venue = venue
        self._store = store
        self._opened = False  # the first account has arrived
        self._accepts_next_account = False  # the operator has accepted the next account
        self._unreconciled = True
        self._halted_at: float | None = None  # loop time
        self._paid: set[tuple[str, int]] = set()
        self._foreign = self._config.execution.testnet.foreign
        self._cancelled: set[str] = set()  # ids of orders cancelled by the core
        self._requested_at: dict[str, float] = {}  # order id -> loop time of the core's last request

    # -- steps ----------------------------------------------------------------------------------------------

    def before_event(self, event: Event) -> None:
        super().before_event(event)
        if isinstance(event, Command) and event.action == "reconciling":
            self._unreconciled = True

    def on_decision(self, decision: Decision) -> None:
        """Check a decision; any drift alarm is false, since trades of others are excluded by
        configuration.
        """
        super().on_decision(decision)
        if isinstance(decision, Order) and not decision.reduce_only:
            require(not self._unreconciled, f"new order while the account is not reconciled: {decision}")
        if isinstance(decision, Order):
            self._requested_at[decision.id] = self._market.loop.time()
        if isinstance(decision, Amend | Cancel):
            self._requested_at[decision.order_id] = self._market.loop.time()
        if isinstance(decision, Cancel):
            self._cancelled.add(decision.order_id)
            self._check_not_replaced(decision.order_id, decision.reason)
        if isinstance(decision, RiskEvent) and not decision.symbol:
            require(decision.rule != "drift", f"false drift alarm: {decision}")
            halted = decision.state is RiskState.HALTED
            self._halted_at = (self._halted_at or self._market.loop.time()) if halted else None

    def after_event(self, event: Event) -> None:
        super().after_event(event)
        if isinstance(event, AccountSnapshot) and not self._ledger.drift:
            self._unreconciled = False
        self._accepts_next_account = self._ledger.accepting

    def before_send(self, order: Order) -> None:
        """Check an order that is about to be sent: it is committed to the store, and no halt forbids it."""
        with closing(sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM orders WHERE id = ?", (order.id,)).fetchone()
        require(found, f"order sent before it is in the store: {order}")
        other = self._venue.orders.get(order.id)
        require(
            other is None or other.request.ts == order.ts,
            f"order sent under the id of another order: {order}, {other and other.request}",
        )
        late = self._halted_at is not None and self._market.loop.time() - self._halted_at > _HALT_GRACE
        require(
            order.reduce_only or not late, f"halted since {self._halted_at}, but an entry is sent: {order}"
        )

    def _check_cash(self, event: Event) -> None:
        """Check cash. The first account and an accepted account set the balance; gains and losses of
        others are transfers.
        """
        if isinstance(event, AccountSnapshot):
            wallet, balance = self._ledger.wallet(), event.balances[COIN]
            if event.foreign or not self._opened or (self._accepts_next_account and event.settled):
                require(wallet == balance, f"ledger's wallet is {wallet} after an account of {balance}")
                self._opened = True
        super()._check_cash(event)

    @property
    def _ledger(self) -> VenueExchange:
        exchange: Any = self.engine.exchange
        return exchange  # type: ignore[no-any-return]

    def _check_fill(self, fill: Fill) -> None:
        if fill.kind is FillKind.TRANSFER:
            begins = self._foreign == "adopt" and not self._opened
            # A restored store lacks trades of others, too; the operator who resumes accepts the account
            require(begins or self._restored, f"unexpected transfer of a position: {fill}")
            self.fills.remove(fill.id)  # a transfer is not an execution
            return
        truth = self._execution(fill.id)
        order = self.orders.get(fill.order_id)
        trails = truth.trailing and order is not None and order.type is OrderType.TRAILING_STOP
        name = fill.order_id if trails else truth.order_name
        mine = (fill.order_id, fill.symbol, fill.ts, fill.side, fill.qty, fill.price, fill.fee)
        theirs = (name, truth.symbol, truth.ts, truth.side, truth.qty, truth.price, truth.fee)
        require(mine == theirs, f"wrong fill: {fill}, actual {truth}")
        # A restored store may lack the order of a trailing stop, whose trades have no client id
        own = truth.client_id or trails or (truth.trailing and self._restored)
        require(own or self._foreign == "adopt", f"fill of a foreign order: {fill}")
        end = self.ended.get(fill.order_id)
        filled = self._filled.get(fill.order_id, _ZERO) + fill.qty
        require(end is None or filled <= end.filled, f"filled beyond the final state {end}: {fill}")

    def _check_payment(self, payment: FundingPayment) -> None:
        stamp = payment.symbol, payment.ts
        require(stamp not in self._paid, f"duplicate funding: {payment}")
        self._paid.add(stamp)
        truth = [
            e for e in self._venue.executions if (e.symbol, e.ts) == stamp and e.kind is ExecutionKind.FUNDING
        ]
        require([-e.fee for e in truth] == [payment.amount], f"wrong payment: {payment}, actual {truth}")

    def _execution(self, name: str) -> Execution:
        found = [execution for execution in self._venue.executions if execution.id == name]
        require(found, f"execution unknown to the venue: {name}")
        return found[0]

    def _is_over(self, order_id: str) -> bool:
        update = self.ended.get(order_id)
        return update is not None and self._filled.get(order_id, _ZERO) >= update.filled

    def _may_open(self, working: WorkingOrder) -> bool:
        return not (working.order.reduce_only or working.cancelling or getattr(working, "ended", False))

    def _opens(self, name: str) -> bool:
        """Return whether an order at the venue could open a position."""
        return not self._venue.orders[name].current.reduce_only

    # -- the end --------------------------------------------------------------------------------------------

    def differences(self) -> str:
        """Describe the first difference between ledger and venue; empty if they agree.

        Call this only while no faults are active. Raises Violation if a request should have taken effect by
        now.
        """
        venue, engine, now = self._venue, self.engine, self._market.loop.time()
        positions, wallet = venue.account_at(now)
        ledger = self._ledger
        since = ledger.first_snapshot_at if self._foreign == "adopt" else inf
        of_ours = (e for e in venue.executions if e.client_id or e.trailing or e.ts >= since)
        trades = {e.id for e in of_ours if e.kind is ExecutionKind.TRADE}
        open_at_venue = {name for name, placed in venue.orders.items() if not placed.current.status.final}
        lost = (
            venue.orders.keys() - self.orders.keys() - set(venue.foreign_orders())
            if self._restored
            else set()
        )
        if ledger.unaccepted:  # protection stays until the operator resumes
            open_at_venue -= {name for name in lost if venue.orders[name].current.reduce_only}
        open_in_ledger = {order_id for order_id in self.orders if not self._is_over(order_id)}
        trailing = {name for name in open_in_ledger if self.orders[name].type is OrderType.TRAILING_STOP}
        open_in_ledger -= trailing
        trails = {self.orders[name].symbol for name in trailing}
        executing = {
            one.current.symbol
            for name, one in venue.orders.items()
            if name in open_at_venue and one.current.trailing
        }
        open_at_venue -= {name for name in open_at_venue if venue.orders[name].current.trailing}
        entries = [name for name in open_at_venue if self._opens(name)]
        held = {symbol: qty for symbol in SYMBOLS if (qty := ledger.held(symbol))}
        flat = not positions and not any(self._positions.values())
        spent = sum((p.qty * p.entry for p in positions.values()), _ZERO)
        working = {w.order.id: w.order.qty for tape in engine.states.values() for w in tape.book}
        others = {
            name for name in open_at_venue & open_in_ledger if working[name] != venue.orders[name].current.qty
        }
        overdue = {
            name
            for name in others | (open_at_venue & self._cancelled)
            if now - self._requested_at.get(name, 0.0) > _REQUEST_GRACE
        }
        require(not overdue, f"requests for these orders have not taken effect: {overdue}")
        for difference, description in (
            (
                venue.orders.keys() - self.orders.keys() - set(venue.foreign_orders()) - lost,
                "orders without a decision",
            ),
            (trades - self.fills, "executions that are not booked"),
            (open_at_venue ^ open_in_ledger, "orders that are open on one side only"),
            (trails ^ (venue.trails.keys() | executing), "trailing stops on one side only"),
            (open_at_venue & self._cancelled, "cancelled orders that are open"),
            (others, "orders with another quantity in the ledger"),
            (self._state is RiskState.HALTED and entries, "open entries while the agent is halted"),
            (held != {s: p.qty for s, p in positions.items()} and positions, f"positions other than {held}"),
            (
                flat and abs(ledger.wallet() - wallet) >= CENT and wallet,
                f"wallet other than {ledger.wallet()}",
            ),
            (
                self._foreign != "ignore" and abs(self._cash + spent - wallet) >= CENT and wallet,
                f"wallet other than {self._cash + spent} from the fills",
            ),
            (not engine.risk.reconciled, "account is not reconciled"),
            (ledger.drift, "drift"),
        ):
            if difference:
                return f"{description}: {difference}"
        return ""


class RecordGapInvariants(VenueInvariants):
    """Life whose store lost records of sent orders: its ledger is wrong, so it must not open any position."""

    def before_event(self, event: Event) -> None:
        pass

    def after_event(self, event: Event) -> None:
        pass

    def on_decision(self, decision: Decision) -> None:
        """Check that no decision of the live phase opens a position."""
        opens = isinstance(decision, Order) and not decision.reduce_only
        require(not (self.live and opens), f"events are lost, but a decision opens a position: {decision}")

    def before_send(self, order: Order) -> None:
        """Check that the order does not open a position."""
        require(order.reduce_only, f"events are lost, but an order that opens a position is sent: {order}")
