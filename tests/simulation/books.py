"""What must hold of fills and orders: on paper at once, at a venue in the end, and there by the venue's own record."""

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
from tests.simulation.invariants import Invariants, hold
from tests.simulation.prices import SYMBOLS
from tests.simulation.venue import COIN, Venue

CENT: Final = Decimal("0.01")
_ZERO: Final = Decimal(0)
_DONE_BY: Final = 30.0  # seconds after a decision about an order, while nothing goes wrong
# seconds after a halt by when no entry may leave any more, whatever the machine does
_TAKEN_BACK: Final = 60.0


class PaperBooks(Invariants):
    """The paper exchange answers at once: an order's end is the end, and halted means that nothing grows."""

    def _check_fill(self, fill: Fill) -> None:
        held = self._positions[fill.symbol]
        signed = fill.side.sign * fill.qty
        if fill.order_id in self.orders:
            order = self.orders[fill.order_id]
            hold(
                (order.symbol, order.side) == (fill.symbol, fill.side),
                f"a fill of another order: {fill} of {order}",
            )
            hold(fill.order_id not in self.ended, f"a fill after the end: {fill}")
            filled = self._filled.get(fill.order_id, _ZERO) + fill.qty
            # protection takes what is held by then
            whole = order.type in (OrderType.STOP, OrderType.TAKE_PROFIT)
            hold(whole or filled <= order.qty, f"more than was ordered: {fill} of {order}")
            shrinks = held * signed < 0 and abs(signed) <= abs(held)
            hold(shrinks or not order.reduce_only, f"a reduce-only order does not reduce {held}: {fill}")
        if self._state is RiskState.HALTED:
            hold(abs(held + signed) < abs(held), f"halted, and a position of {held} grows: {fill}")

    def _check_payment(self, payment: FundingPayment) -> None:
        hold(payment.qty == self._positions[payment.symbol], f"funding on what is not held: {payment}")

    def _is_over(self, order_id: str) -> bool:
        return order_id in self.ended

    def _may_open(self, working: WorkingOrder) -> bool:
        return not working.order.reduce_only


class VenueBooks(Invariants):
    """A venue answers in its own time, in any order: each fill is held against its record, and in the end all of it was booked."""

    def __init__(self, venue: Venue, store: Path, restored: bool, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self._restored = restored  # an older store: the venue has orders that nobody here remembers
        self._venue = venue
        self._store = store
        self._opened = False  # the account has been seen
        self._accepts = False  # a person has accepted the next one
        self._unreconciled = True
        self._halted_at: float | None = None  # of the loop's clock
        self._paid: set[tuple[str, int]] = set()
        self._foreign = self._config.execution.testnet.foreign
        self._taken_back: set[str] = set()  # ids of orders that the core has cancelled
        # when the core last wanted something of an order, of the loop's clock
        self._asked_at: dict[str, float] = {}

    # -- steps ---------------------------------------------------------------------------------------------------------

    def before(self, event: Event) -> None:
        """As the base."""
        super().before(event)
        if isinstance(event, Command) and event.action == "reconciling":
            self._unreconciled = True

    def decision(self, decision: Decision) -> None:
        """As the base; where others trade in the account it is by configuration none of our business, so that any drift is a false one."""
        super().decision(decision)
        if isinstance(decision, Order) and not decision.reduce_only:
            hold(not self._unreconciled, f"a new order, though the account isn't known: {decision}")
        if isinstance(decision, Order):
            self._asked_at[decision.id] = self._market.loop.time()
        if isinstance(decision, Amend | Cancel):
            self._asked_at[decision.order_id] = self._market.loop.time()
        if isinstance(decision, Cancel):
            self._taken_back.add(decision.order_id)
            self._check_taken_back(decision.order_id, decision.reason)
        if isinstance(decision, RiskEvent) and not decision.symbol:
            hold(decision.rule != "drift", f"an alarm without a reason: {decision}")
            halted = decision.state is RiskState.HALTED
            self._halted_at = (self._halted_at or self._market.loop.time()) if halted else None

    def after(self, event: Event) -> None:
        """As the base."""
        super().after(event)
        if isinstance(event, AccountSnapshot) and not self._ledger.drift:
            self._unreconciled = False
        self._accepts = self._ledger.accepting  # the next account, as it is

    def leaves(self, order: Order) -> None:
        """An order that is about to leave: it is safe in the store, as other eyes see it, and no halt stands against it."""
        with closing(sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM orders WHERE id = ?", (order.id,)).fetchone()
        hold(found, f"an order leaves that is not in the store: {order}")
        other = self._venue.orders.get(order.id)
        hold(
            other is None or other.asked.ts == order.ts,
            f"an order leaves under the id of another one: {order}, {other and other.asked}",
        )
        late = self._halted_at is not None and self._market.loop.time() - self._halted_at > _TAKEN_BACK
        hold(order.reduce_only or not late, f"halted since {self._halted_at}, and an entry leaves: {order}")

    def _check_cash(self, event: Event) -> None:
        """As the base; the run's money is what the first account holds, or one that a person accepts, and what strangers gain or
        lose in it is a transfer."""
        if isinstance(event, AccountSnapshot):
            wallet, balance = self._ledger.wallet(), event.balances[COIN]
            if event.foreign or not self._opened or (self._accepts and event.settled):
                hold(wallet == balance, f"a wallet of {wallet} in the ledger, after an account of {balance}")
                self._opened = True
        super()._check_cash(event)

    @property
    def _ledger(self) -> VenueExchange:
        exchange: Any = self.engine.exchange
        return exchange  # type: ignore[no-any-return]

    def _check_fill(self, fill: Fill) -> None:
        if fill.kind is FillKind.TRANSFER:
            begins = self._foreign == "adopt" and not self._opened
            # With an older record what strangers had done is lost, too: a person who resumes accepts the account as it is
            hold(begins or self._restored, f"a position is taken over: {fill}")
            self.fills.remove(fill.id)  # it is no execution
            return
        truth = self._execution(fill.id)
        mine = (fill.order_id, fill.symbol, fill.ts, fill.side, fill.qty, fill.price, fill.fee)
        theirs = (truth.order_name, truth.symbol, truth.ts, truth.side, truth.qty, truth.price, truth.fee)
        hold(mine == theirs, f"a wrong fill: {fill}, in truth {truth}")
        hold(truth.client_id or self._foreign == "adopt", f"a stranger's fill: {fill}")
        end = self.ended.get(fill.order_id)
        filled = self._filled.get(fill.order_id, _ZERO) + fill.qty
        hold(end is None or filled <= end.filled, f"told to have ended, {end}, and filled further: {fill}")

    def _check_payment(self, payment: FundingPayment) -> None:
        stamp = payment.symbol, payment.ts
        hold(stamp not in self._paid, f"funding twice: {payment}")
        self._paid.add(stamp)
        truth = [
            e for e in self._venue.executions if (e.symbol, e.ts) == stamp and e.kind is ExecutionKind.FUNDING
        ]
        hold([-e.fee for e in truth] == [payment.amount], f"a wrong payment: {payment}, in truth {truth}")

    def _execution(self, name: str) -> Execution:
        found = [execution for execution in self._venue.executions if execution.id == name]
        hold(found, f"an execution that the venue does not know: {name}")
        return found[0]

    def _is_over(self, order_id: str) -> bool:
        update = self.ended.get(order_id)
        return update is not None and self._filled.get(order_id, _ZERO) >= update.filled

    def _may_open(self, working: WorkingOrder) -> bool:
        return not (working.order.reduce_only or working.cancelling or getattr(working, "ended", False))

    # -- the end -------------------------------------------------------------------------------------------------------

    def differs(self) -> str:
        """What the ledger and the venue don't have in common, in words; empty where they agree.

        While nothing goes wrong. Raises Violation for what must have been done by now.
        """
        venue, engine, now = self._venue, self.engine, self._market.loop.time()
        positions, wallet = venue.account(now)
        ledger = self._ledger
        since = ledger.began if self._foreign == "adopt" else inf
        of_ours = (e for e in venue.executions if e.client_id or e.ts >= since)
        trades = {e.id for e in of_ours if e.kind is ExecutionKind.TRADE}
        there = {name for name, placed in venue.orders.items() if not placed.now.status.final}
        lost = venue.orders.keys() - self.orders.keys() - set(venue.strangers()) if self._restored else set()
        if ledger.unaccepted:  # what protects stays until a person resumes
            there -= {name for name in lost if venue.orders[name].now.reduce_only}
        here = {order_id for order_id in self.orders if not self._is_over(order_id)}
        entries = [name for name in there if not venue.orders[name].now.reduce_only]
        held = {symbol: qty for symbol in SYMBOLS if (qty := ledger.held(symbol))}
        flat = not positions and not any(self._positions.values())
        spent = sum((p.qty * p.entry for p in positions.values()), _ZERO)
        working = {w.order.id: w.order.qty for tape in engine.states.values() for w in tape.book}
        others = {name for name in there & here if working[name] != venue.orders[name].now.qty}
        overdue = {
            name
            for name in others | (there & self._taken_back)
            if now - self._asked_at.get(name, 0.0) > _DONE_BY
        }
        hold(not overdue, f"what was asked of these orders long ago is not done: {overdue}")
        for flaw, words in (
            (
                venue.orders.keys() - self.orders.keys() - set(venue.strangers()) - lost,
                "orders that nobody has decided",
            ),
            (trades - self.fills, "executions that nobody has booked"),
            (there ^ here, "orders of which only one side thinks that they are open"),
            (there & self._taken_back, "orders that were taken back, and are open"),
            (others, "orders whose quantity is another one in the ledger"),
            (self._state is RiskState.HALTED and entries, "entries that are open though the agent is halted"),
            (held != {s: p.qty for s, p in positions.items()} and positions, f"positions other than {held}"),
            (
                flat and abs(ledger.wallet() - wallet) >= CENT and wallet,
                f"a wallet other than {ledger.wallet()}",
            ),
            (
                self._foreign != "ignore" and abs(self._cash + spent - wallet) >= CENT and wallet,
                f"a wallet other than the fills make, {self._cash + spent}",
            ),
            (engine.risk.unreconciled, "an account that is not reconciled"),
            (ledger.drift, "drift"),
        ):
            if flaw:
                return f"{words}: {flaw}"
        return ""


class RecordGap(VenueBooks):
    """A life whose store lost what was sent: its ledger is wrong, so that only one thing is asked of it, to open nothing."""

    def before(self, event: Event) -> None:
        """Whatever comes."""

    def after(self, event: Event) -> None:
        """Whatever came."""

    def decision(self, decision: Decision) -> None:
        """Nothing that opens a position is decided once the life has begun."""
        opens = isinstance(decision, Order) and not decision.reduce_only
        hold(
            not (self.live and opens),
            f"events are lost, and an order is decided that opens a position: {decision}",
        )

    def leaves(self, order: Order) -> None:
        """Nothing that opens a position leaves."""
        hold(order.reduce_only, f"events are lost, and an order leaves that opens a position: {order}")
