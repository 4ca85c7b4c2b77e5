"""A venue's reports in an account with several sleeves: each goes to the sleeve that it concerns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from agent.core.events import (
    MINUTE_MS,
    AccountSnapshot,
    Command,
    Decision,
    Event,
    Fill,
    FundingSettlement,
    OrderUpdate,
    RiskEvent,
)
from agent.core.exchange import client_order_id
from agent.core.flatten import Flattener
from agent.core.market import InstrumentState
from agent.core.portfolio import Portfolio
from agent.core.risk import TAKEN_ID, RiskManager
from agent.core.sleeve import Sleeve
from agent.core.sleeve_venue import AccountExchange


class VenueReports:
    """Routes reports, and does for the account what `Engine` does for one strategy at a venue.

    What no sleeve has can still be a position at the venue; `closing` closes it, by the account's own orders.
    `states` have the unassigned positions. `emit` receives the account's own decisions.
    """

    def __init__(
        self,
        venue: AccountExchange,
        sleeves: Mapping[str, Sleeve],
        states: dict[str, InstrumentState],
        risk: RiskManager,
        portfolio: Portfolio,
        emit: Callable[[Decision], None],
        new_id: Callable[[], str],
    ) -> None:
        self.closing = Flattener(states, venue, risk, emit, new_id, MINUTE_MS)
        self.counts: Counter[str] = Counter()
        self._venue = venue
        self._sleeves = sleeves
        self._states = states
        self._risk = risk
        self._portfolio = portfolio  # of the account
        self._emit = emit
        risk.set_reconciled(False)

    # -- reports ------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: int) -> bool:
        """Handle a report of the venue; return whether the event is one."""
        if isinstance(event, OrderUpdate):
            self._on_update(event)
        elif isinstance(event, Fill):
            self._on_fill(event)
        elif isinstance(event, FundingSettlement):
            self._on_settlement(event)
        elif isinstance(event, AccountSnapshot):
            self._on_account(event, now)
        else:
            return False
        self.closing.pursue(now)
        return True

    def _on_update(self, update: OrderUpdate) -> None:
        owner = self._venue.owner_of(update.order_id)
        if owner:
            self._sleeves[owner].engine.handle(update)
        elif not self._venue.on_update(update):
            self.counts["order updates that say nothing new"] += 1

    def _on_fill(self, fill: Fill) -> None:
        venue = self._venue
        if fill.id in venue.fill_ids:
            self.counts["duplicate fills"] += 1
            return
        for owner, part in venue.divide(fill):
            if owner:
                self._sleeves[owner].engine.handle(part)
            elif not venue.on_fill(part):
                self.counts["fills of other symbols"] += 1

    def _on_settlement(self, settlement: FundingSettlement) -> None:
        payments = self._venue.attribute(settlement)
        if not payments:
            self.counts["duplicate settlements"] += 1
        for owner, payment in payments:
            if owner:
                self._venue.exchanges[owner].pay(payment)
            else:
                self._venue.pay(payment)

    def _on_account(self, account: AccountSnapshot, now: int) -> None:
        engines = [sleeve.engine for sleeve in self._sleeves.values()]
        measured = [(self._risk, self._portfolio), *((one.risk, one.portfolio) for one in engines)]
        before = [portfolio.initial for _, portfolio in measured]
        drift = self._venue.on_account(account)
        for (risk, portfolio), initial in zip(measured, before, strict=True):
            risk.on_transfer(float(portfolio.initial - initial))
        self._risk.on_drift(now, drift)
        if drift:
            return
        self._risk.set_reconciled(True)
        for sleeve in list(self._sleeves.values()):
            sleeve.engine.handle(account)

    # -- commands -----------------------------------------------------------------------------------------

    def accepts(self) -> bool:
        """Return whether a resume now accepts the account as it is."""
        return self._risk.rule == "drift" or self._venue.unaccepted

    def accept(self, *, account: bool) -> None:
        """Follow a resume: end what is being closed, and accept the account if `account`."""
        self.closing.end()
        if account:
            self._venue.accept()

    def close(self, now: int, reason: str, symbol: str = "") -> None:
        """Close the positions that no sleeve has, or only that in `symbol`."""
        held = [name for name, one in self._states.items() if one.position.qty and symbol in ("", name)]
        self.closing.begin(held, now, reason)

    def on_command(self, command: Command, now: int) -> None:
        """Follow what the gateway or the daemon has found at the venue; see `Command`."""
        if command.action == "taken-id":
            self._on_taken_id(command, now)
            return
        if command.action == "older-record":
            self._venue.on_older_record()
        else:
            self._venue.unaccepted = True
        self._risk.on_older_record(now, command.args.get("detail", ""))

    def _on_taken_id(self, command: Command, now: int) -> None:
        """End an order whose id another order has at the venue."""
        order, detail = command.args.get("order", ""), command.args.get("detail", "")
        owner = self._venue.owner_of(order)
        if owner:
            self._sleeves[owner].engine.handle(command)
        elif self._venue.reissue(order, now, detail):
            symbol = command.args.get("symbol", "")
            self._emit(RiskEvent(now, self._risk.state, TAKEN_ID, detail, symbol))
            self.closing.pursue(now)
        else:
            self.counts["taken ids of orders that had ended"] += 1

    # -- internal crosses ---------------------------------------------------------------------------------

    def let_orders_leave(self, now: int) -> None:
        """Let the sleeves' new orders leave for the venue, once they have been crossed."""
        for exchange in list(self._venue.exchanges.values()):
            exchange.let_leave(now)


class AccountIds:
    """Client order ids of the account's own orders."""

    def __init__(self, run_id: str, prefix: str) -> None:
        self.incarnation = ""
        self._run_id = run_id
        self._prefix = prefix
        self._count = 0

    def next(self) -> str:
        """Return the next id."""
        self._count += 1
        return client_order_id(self._prefix, self._run_id, self.incarnation, self._count)
