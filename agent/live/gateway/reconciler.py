"""Reconciles the venue's account with the ledger: executions, orders, positions, wallet, others' trades."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import structlog

from agent.config import Config
from agent.core.errors import SafetyError
from agent.core.events import (
    AccountSnapshot,
    Command,
    Decision,
    Event,
    Fill,
    FundingSettlement,
    Order,
    PositionSnapshot,
)
from agent.core.exchange import EMERGENCY_PREFIX, ID_PREFIX
from agent.core.venue import AccountState, OpenState
from agent.live.gateway.execution_events import fills_of, settlement_of
from agent.live.gateway.in_flight_order import InFlightState
from agent.live.gateway.order_tracker import OrderTracker
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import (
    Execution,
    ExecutionKind,
    OrderRef,
    OrderRejected,
    VenueOrder,
    VenuePosition,
    Wallet,
)
from agent.system.clock import iso

_ATTEMPTS: Final = 5
_ZERO: Final = Decimal(0)
_log: Final = structlog.get_logger(__name__)


class Reconciler:
    """Makes account snapshots for the core, and turns executions into events, each execution once.

    Orders go to `tracker`. `past` is what earlier lives of the run have left, `account_state` returns the
    core's view of the account, and `put` takes events.
    """

    def __init__(
        self,
        client: ThrottledClient,
        config: Config,
        past: OpenState,
        account_state: Callable[[], AccountState],
        put: Callable[[Event], None],
        tracker: OrderTracker,
    ) -> None:
        settings = config.execution.testnet
        self.cancels_lost_orders = False  # after a kill: also those that protect a position
        self.foreign_trades = False  # others have traded since the last account snapshot
        self._client = client
        self._tracker = tracker
        self._account_state = account_state
        self._put = put
        self._health = client.health
        self._symbols = config.market.symbols
        self._spot = config.market.category == "spot"
        self._coin = config.account.currency
        self._foreign = settings.foreign
        self._overlap = settings.overlap
        self._settle = settings.settle / 1000
        self._fetching = asyncio.Lock()
        self._fetches = 0
        # all executions up to here are known, apart from the venue's lag; UTC ms by its clock
        self._complete_until = 0
        # UTC ms by the venue's clock: earlier trades of others are in the first snapshot
        self._started_at = 0
        self._executions = 0  # that were new
        self._last_execution_at = 0.0  # when the last new one was reported, or the start; event loop's clock
        self._execution_ids = set(past.fill_ids)  # of all executions that were reported
        self._unbooked: set[str] = set()  # of executions that the core has yet to book
        self._order_ids = set(past.order_ids)  # of all orders of this run
        # client ids of orders that the record must contain begin so
        self._prefix = past.run_prefix if settings.foreign == "ignore" else ID_PREFIX
        self._counted: set[str] = set()  # ids of lost executions that the core already knows of
        self._losses = past.account.losses  # how often the core knows, or will know, of a loss
        self._snapshots = past.account.snapshots  # that the core has handled or will receive

    def start(self) -> None:
        """Begin, once the clock is synchronised."""
        self._started_at = self._account_state().first_at or self._client.venue_time()
        self._last_execution_at = asyncio.get_running_loop().time()

    # -- observation of the core -----------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Observe that the core books an execution."""
        if isinstance(event, Fill | FundingSettlement):
            self._execution_ids.add(event.id)
            self._unbooked.discard(event.id)

    def decision(self, decision: Decision) -> None:
        """Observe that the core has decided an order."""
        if isinstance(decision, Order):
            self._order_ids.add(decision.id)

    # -- executions ------------------------------------------------------------------------------------------

    async def fetch_missed_executions(self) -> None:
        """Fetch all executions since the last fetch. Concurrent callers share one query.

        Executions that the stream has reported meanwhile do not move the start: earlier ones may be missing.
        """
        asked = self._fetches
        async with self._fetching:
            if self._fetches > asked + 1:  # a fetch that began after this call has ended
                return
            now = self._client.venue_time()
            since = max(self._complete_until, self._account_state().last_at) or self._earliest()
            found = await self._client.retry(lambda: self._client.port.executions(since - self._overlap))
            self.on_executions(found)
            self._complete_until = now
            self._fetches += 1

    def _earliest(self) -> int:
        """Before the first account snapshot only executions of earlier lives' orders matter."""
        return min([self._started_at, *(order.order.ts for order in self._tracker.in_flight())])

    def on_executions(self, found: Iterable[Execution]) -> None:
        """Take a list of executions, oldest first.

        Those of lost orders are reported to the core in one command before.
        """
        executions = [e if e.id in self._execution_ids else self._tracker.named(e) for e in found]
        new = [e for e in executions if e.id not in self._execution_ids]
        lost = [e for e in new if self._is_of_lost_order(e)]
        if lost:
            lost += [e for e in new if e not in lost and self._is_of_unnamed_stop(e)]
            self._health.lost_executions += len(lost)
            self.report_loss(len({e.order_name for e in lost}), len(lost), min(e.ts for e in lost))
            self._counted |= {e.id for e in lost}
        for execution in executions:
            self.on_execution(execution)
        self._counted.clear()

    def on_execution(self, execution: Execution) -> None:
        """Take an execution, and have the core book it if it is the run's or `foreign` adopts it."""
        if execution.id in self._execution_ids:
            return
        e = self._tracker.named(execution)
        lost = self._is_of_lost_order(e)
        own = lost or e.client_id in self._order_ids
        if not own and e.ts < self._started_at:
            return
        if lost and e.id not in self._counted:
            self._health.lost_executions += 1
            self.report_loss(1, 1, e.ts)
        self._executions += 1
        self._last_execution_at = asyncio.get_running_loop().time()
        self._execution_ids.add(e.id)
        now = self._client.clock.now()
        if e.symbol not in self._symbols:
            self.foreign_trades = True  # it changes the same wallet
        elif e.kind is ExecutionKind.FUNDING:
            self._unbooked.add(e.id)
            self._put(settlement_of(e, now))
        elif e.kind is ExecutionKind.UNKNOWN:
            self.foreign_trades = True
            kinds = {*self._health.unknown_executions, e.venue_kind or "without a kind"}
            self._health.unknown_executions = sorted(kinds)
            _log.error(
                "an execution of an unknown kind is not booked: compare the account",
                kind=e.venue_kind,
                symbol=e.symbol,
                id=e.id,
            )
        elif own or e.client_id.startswith(EMERGENCY_PREFIX) or e.kind is ExecutionKind.LIQUIDATION:
            self._book(e, now, of_another=lost and self._tracker.is_of_another_order(e))
        else:
            _log.warning(
                "an order that is not of this run was executed in this account",
                symbol=e.symbol,
                qty=str(e.qty),
                adopted=self._foreign == "adopt",
            )
            if self._foreign == "adopt":
                self._book(e, now, of_another=False)
            else:
                self.foreign_trades = True

    def _book(self, e: Execution, now: int, *, of_another: bool) -> None:
        """Have the core book a trade. `of_another`: its order has an id of ours, and is another one."""
        self._unbooked.add(e.id)
        self._health.fills += 1
        for fill in fills_of(e, now, order_id=e.order_id if of_another else ""):
            self._put(fill)
        if not of_another:
            self._tracker.on_execution(e)

    def _is_of_lost_order(self, e: Execution) -> bool:
        """True for a trade of an order that the record lacks, or of another order under an id of ours."""
        if e.kind is not ExecutionKind.TRADE or e.symbol not in self._symbols or e.ts < self._started_at:
            return False
        if self._is_lost(e.client_id) or self._tracker.is_of_another_order(e):
            return True
        return self._knows_of_loss and self._is_of_unnamed_stop(e)

    def _is_of_unnamed_stop(self, e: Execution) -> bool:
        """True for a trade of a trailing stop that the record lacks.

        The venue makes its order and gives it no id of ours, so such a trade is only ours if the record is
        known to lack something.
        """
        tradable = e.kind is ExecutionKind.TRADE and e.symbol in self._symbols and e.ts >= self._started_at
        return tradable and e.trailing and not e.client_id and self._foreign != "ignore"

    @property
    def _knows_of_loss(self) -> bool:
        """True if the record of the run is known to lack a part of its history."""
        return self._losses > 0 or self._account_state().unaccepted

    # -- orders ----------------------------------------------------------------------------------------------

    async def check_open_orders(self) -> list[VenueOrder]:
        """Query all open orders and those in flight; return the foreign ones of the traded symbols."""
        tracker = self._tracker
        asked = asyncio.get_running_loop().time()
        found = [tracker.named(one) for one in await self._client.retry(self._client.port.open_orders)]
        for order in found:
            tracker.on_order(order)
        open_ids = {order.client_id for order in found}
        for known in tracker.in_flight():
            accepted = known.state is InFlightState.ACCEPTED and known.accepted_at < asked
            if accepted and known.order.id not in open_ids:
                await tracker.query(known)
        unknown = [order for order in found if not self._is_own(order.client_id)]
        lost = [order for order in unknown if self._is_lost(order.client_id)]
        await self._cancel_lost(lost)
        foreign = [order for order in unknown if order not in lost]
        names = [order.name for order in foreign]
        if names != self._health.foreign_orders:
            self._health.foreign_orders = names
            for order in foreign:
                _log.warning(
                    "an order in this account is not of this run",
                    order=order.name,
                    symbol=order.symbol,
                    side=order.side.value,
                    qty=str(order.qty),
                )
        return foreign

    async def _cancel_lost(self, lost: list[VenueOrder]) -> None:
        """Cancel open orders that the record lacks.

        Those that protect a position stay until an operator resumes or kills.
        """
        if new := [order for order in lost if order.client_id not in self._health.lost_orders]:
            self.report_loss(len(new), 0, min(order.created for order in new))
        self._health.lost_orders = [order.client_id for order in lost]
        for order in lost:
            if not order.reduce_only or self.cancels_lost_orders or self._loss_accepted:
                ref = OrderRef(order.symbol, order.client_id)
                try:
                    await self._client.retry(partial(self._client.port.cancel, ref))
                except OrderRejected as error:
                    _log.warning(
                        "the cancel of an order that the record lacks was rejected", reason=error.message
                    )

    # -- what the record of the run lacks --------------------------------------------------------------------

    def _is_own(self, client_id: str) -> bool:
        """True for an order of this run, or of its kill switch."""
        return client_id in self._order_ids or client_id.startswith(EMERGENCY_PREFIX)

    def _is_lost(self, client_id: str) -> bool:
        """True for an order that the record must contain by its id, and lacks: the record is older."""
        ours = client_id.startswith(self._prefix) and client_id not in self._order_ids
        return ours and self._account_state().opened

    def report_loss(self, orders: int, executions: int, since: int) -> None:
        """Inform the core, before it gets the lost executions, that its record lacks some history."""
        self._losses += 1
        now, begin = self._client.clock.now(), iso(since)
        detail = (
            f"the venue has {executions} executions and {orders} orders since {begin} that the record of "
            "this run has not; executions are booked, and `tapewire resume` accepts the account as it is"
        )
        _log.error(
            "the record lacks a part of the venue's history",
            orders=orders,
            executions=executions,
            since=begin,
        )
        self._put(Command("older-record", now, now, {"detail": detail}, "gateway"))

    @property
    def _loss_accepted(self) -> bool:
        """True if an operator has resumed since the last loss was reported."""
        state = self._account_state()
        return not state.unaccepted and state.losses >= self._losses

    # -- account ---------------------------------------------------------------------------------------------

    async def snapshot_account(self) -> AccountSnapshot | None:
        """Take a snapshot of the account at a moment without executions; None if there was no such moment.

        A settled snapshot is one with nothing executed for `settle` before it, since the venue's views lag
        behind, and after it, since the list of executions does. The snapshot must be settled to start the
        ledger, to report a drift again, to be accepted by an operator, and to attribute a change to others.
        """
        for _ in range(_ATTEMPTS):
            await self.fetch_missed_executions()
            before = self._executions
            settled = self._must_be_settled()
            settle = self._settle if settled else 0.0
            wait = self._last_execution_at + settle - asyncio.get_running_loop().time()
            await asyncio.sleep(wait)
            positions = await self._client.retry(self._client.port.positions)
            wallet = await self._client.retry(self._client.port.wallet)
            await asyncio.sleep(settle)
            await self.fetch_missed_executions()
            if self._executions == before:
                return self._snapshot(positions, wallet, settled=settled)
        return None

    def _must_be_settled(self) -> bool:
        state = self._account_state()
        outstanding = state.snapshots < self._snapshots
        return not state.opened or state.accepting or bool(state.drift) or outstanding or self.foreign_trades

    def _snapshot(
        self, positions: Sequence[VenuePosition], wallet: Wallet, *, settled: bool
    ) -> AccountSnapshot:
        if not self._unbooked:
            self._note_foreign(positions)
        if self._spot:
            coins = {symbol: symbol.removesuffix(self._coin) for symbol in self._symbols}
            balances = {symbol: wallet.balances.get(coin, _ZERO) for symbol, coin in coins.items()}
            holdings = tuple(PositionSnapshot(symbol, qty) for symbol, qty in balances.items() if qty)
        else:
            own = [p for p in positions if p.symbol in self._symbols]
            holdings = tuple(PositionSnapshot(p.symbol, p.qty, p.entry) for p in own)
        foreign = self.foreign_trades and self._foreign != "refuse"
        self.foreign_trades = False
        self._snapshots += 1
        now, time = self._client.clock.now(), self._client.venue_time()
        return AccountSnapshot(time, now, wallet.balances, holdings, foreign=foreign, settled=settled)

    def _note_foreign(self, positions: Sequence[VenuePosition]) -> None:
        """Log positions that differ from the ledger's, which are 0 before the first snapshot."""
        expected = self._account_state().positions
        foreign: dict[str, str] = {}
        for position in positions:
            own = expected.get(position.symbol, _ZERO)
            if position.qty != own:
                foreign[position.symbol] = str(position.qty - own)
        if foreign != self._health.foreign_positions:
            self._health.foreign_positions = foreign
            if foreign:
                _log.warning("positions in this account are not of this run", **foreign)

    def refuse_foreign(self) -> None:
        """Raise SafetyError if the account is not empty at the start, and `foreign` is "refuse"."""
        orders, positions = self._health.foreign_orders, self._health.foreign_positions
        if self._foreign != "refuse" or self._account_state().opened or not (orders or positions):
            return
        found = [f"order {name}" for name in orders] + [
            f"{qty} {symbol}" for symbol, qty in positions.items()
        ]
        raise SafetyError(
            f"the account is not empty: {', '.join(found)}",
            hint='close them, or write execution.testnet.foreign = "adopt" or "ignore"',
        )
