"""What the venue says, as events for the core: each piece of news once, whichever way and however often it came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final

import structlog
from msgspec.structs import replace

from agent.core.events import (
    Command,
    Event,
    Fill,
    FillKind,
    FundingSettlement,
    OrderStatus,
    OrderUpdate,
    Side,
)
from agent.core.exchange import ID_PREFIX
from agent.core.venue import VenueExchange
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.in_flight_order import Intent, Intents, IntentState
from agent.live.gateway.venue_port import Execution, ExecutionKind, VenueOrder
from agent.system.clock import Clock, iso

EMERGENCY: Final = "twk-"
"""Client ids of the kill switch's own orders begin so (`agent.live.emergency_close`): the run's, though the core did not decide them."""

_log: Final = structlog.get_logger(__name__)
_ZERO: Final = Decimal(0)
_RANK: Final = {OrderStatus.NEW: 0, OrderStatus.UNTRIGGERED: 0, OrderStatus.PARTIALLY_FILLED: 1}


class ReportTranslator:
    """Translates, and hands each event to `put`. `ledger` is the core's, and only read: what it has booked is no news.

    `foreign` is `execution.testnet.foreign`: with `adopt`, trades of others in the account are booked, too.
    """

    def __init__(
        self,
        ledger: VenueExchange,
        intents: Intents,
        symbols: Iterable[str],
        clock: Clock,
        health: GatewayHealth,
        put: Callable[[Event], None],
        *,
        foreign: str,
        spot: bool,
    ) -> None:
        self.began = 0  # UTC ms by the venue's clock
        self.count = 0  # executions that were news
        self.heard_at = 0.0  # when the last one was, or the beginning, of the event loop's clock
        self.foreign = False  # others have traded since the last look at the account
        self._ledger = ledger
        self._intents = intents
        self._symbols = frozenset(symbols)
        self._clock = clock
        self._health = health
        self._put = put
        self._adopts = foreign == "adopt"
        # of orders that the record must have
        self._prefix = ledger.run_prefix if foreign == "ignore" else ID_PREFIX
        self._spot = spot
        self._losses = ledger.losses  # as many as the core has handled, or will have been told of
        self._counted: set[str] = set()  # executions of lost orders of which the core was told already
        self._told: set[str] = set()  # executions that the core has yet to book
        self._passed_over: set[str] = set()  # and those of others, which it will not

    def begin(self, began: int) -> None:
        """What others did before `began` is in the first account already, once the venue's views show it."""
        self.began = began
        self.heard_at = asyncio.get_running_loop().time()

    # -- orders ------------------------------------------------------------------------------------------------------

    def order(self, order: VenueOrder) -> None:
        """An order as the venue has it; old news and others' orders are passed over."""
        intent = self._intents.get(order.client_id)
        if intent is None or intent.ended:
            return
        if not intent.certain:
            if difference := intent.differs(order, spot=self._spot):
                self.disown(intent, f"the venue has another order of this id: {difference}", order.created)
                return
            if order.qty != intent.order.qty and intent.order.trigger is not None and not order.status.final:
                intent.amend_qty = intent.order.qty  # it was amended while nobody was there
        self.accept(intent, order.status, tell=False)
        intent.missed = 0
        if order.status.final:
            self.close(intent, order.status, order.reason, filled=order.filled, ts=order.updated)
            return
        told = intent.status
        if told is not None and _RANK[order.status] <= _RANK[told] and order.filled <= intent.filled:
            return
        intent.status, intent.filled = order.status, max(order.filled, intent.filled)
        self._update(intent, order.status, intent.filled, order.reason, order.updated)

    def accept(self, intent: Intent, status: OrderStatus = OrderStatus.NEW, *, tell: bool = True) -> None:
        """The venue has it."""
        if intent.state in (IntentState.ACCEPTED, IntentState.ENDED):
            return
        intent.state = IntentState.ACCEPTED
        intent.accepted_at = asyncio.get_running_loop().time()
        intent.changed.set()
        if tell and intent.status is None:
            intent.status = status
            self._update(intent, status, _ZERO, "", 0)

    def close(
        self, intent: Intent, status: OrderStatus, reason: str, *, filled: Decimal = _ZERO, ts: int = 0
    ) -> None:
        """It can't be filled any more."""
        if intent.ended:
            return
        intent.state, intent.status = IntentState.ENDED, status
        intent.filled = max(filled, intent.filled, intent.booked)
        intent.changed.set()
        self._update(intent, status, intent.filled, reason, ts)
        self._intents.forget_done([intent])

    def disown(self, intent: Intent, detail: str, created: int = 0) -> None:
        """The venue's order of this id is another one, so that ours can't be placed under it: the core decides anew."""
        if intent.ended:
            return
        order, now = intent.order, self._clock.now()
        self._health.taken_ids += 1
        _log.error(
            "a client order id is taken by another order", order=order.id, symbol=order.symbol, detail=detail
        )
        intent.state, intent.status, intent.filled = IntentState.ENDED, OrderStatus.REJECTED, intent.booked
        intent.changed.set()
        self._intents.forget_done([intent])
        self.lose(1, 0, created or now)
        args = {"order": order.id, "symbol": order.symbol, "detail": detail}
        self._put(Command("taken-id", now, now, args, "gateway"))

    # -- what the record has lost ------------------------------------------------------------------------------------

    def is_lost(self, client_id: str) -> bool:
        """Whether an order is of this run, or of this account's Tapewire, and the record does not have it: the record is older."""
        known = client_id in self._ledger.order_ids
        return self._ledger.opened and client_id.startswith(self._prefix) and not known

    def lose(self, orders: int, executions: int, since: int) -> None:
        """Let the core know, before anything else of it is told, that the record is older than the venue's history."""
        self._losses += 1
        now = self._clock.now()
        detail = (
            f"the venue has {executions} executions and {orders} orders since {iso(since)} that the record of this run has not; "
            "executions are booked, and `tapewire resume` accepts the account as it is"
        )
        _log.error(
            "the record is older than the venue's history",
            orders=orders,
            executions=executions,
            since=iso(since),
        )
        self._put(Command("older-record", now, now, {"detail": detail}, "gateway"))

    @property
    def accepted(self) -> bool:
        """Whether a person has resumed since the record was last found to be older."""
        return not self._ledger.unaccepted and self._ledger.losses >= self._losses

    def _update(self, intent: Intent, status: OrderStatus, filled: Decimal, reason: str, ts: int) -> None:
        now = self._clock.now()
        order = intent.order
        self._put(OrderUpdate(order.id, order.symbol, ts or now, now, status, filled, reason))

    # -- executions --------------------------------------------------------------------------------------------------

    def executions(self, executions: Iterable[Execution]) -> None:
        """Many of them, oldest first; those of orders that the record has lost are counted before they are booked."""
        found = list(executions)
        lost = [e for e in found if self._is_news(e) and self._is_of_lost_order(e)]
        if lost:
            self._health.lost_executions += len(lost)
            self.lose(len({e.order_name for e in lost}), len(lost), min(e.ts for e in lost))
            self._counted |= {e.id for e in lost}
        for execution in found:
            self.execution(execution)
        self._counted.clear()

    def _is_news(self, e: Execution) -> bool:
        return e.id not in self._told and e.id not in self._passed_over and e.id not in self._ledger.fill_ids

    def _is_of_lost_order(self, e: Execution) -> bool:
        """Whether it is a trade by an order that the record does not have, or that is another one under the same id."""
        if e.kind is not ExecutionKind.TRADE or e.symbol not in self._symbols or e.ts < self.began:
            return False
        return self.is_lost(e.client_id) or self._is_of_another(e)

    def _is_of_another(self, e: Execution) -> bool:
        intent = self._intents.get(e.client_id)
        if intent is None or intent.certain:
            return False
        order = intent.order
        return e.symbol != order.symbol or e.side is not order.side or e.ts < intent.after

    def execution(self, execution: Execution) -> bool:
        """An execution; whether it was news. What others trade is booked where it is to be adopted."""
        e = execution
        if not self._is_news(e):
            return False
        lost = self._is_of_lost_order(e)
        ours = lost or e.client_id in self._ledger.order_ids
        if not ours and e.ts < self.began:
            return False
        if lost and e.id not in self._counted:
            self._health.lost_executions += 1
            self.lose(1, 1, e.ts)
        self.count += 1
        self.heard_at = asyncio.get_running_loop().time()
        if e.symbol not in self._symbols:
            self._pass_over(e)  # it moves the same wallet
            return True
        if e.kind is ExecutionKind.FUNDING:
            self._told.add(e.id)
            self._put(self._settlement(e))
            return True
        if e.kind is ExecutionKind.UNKNOWN:
            _log.error(
                "an execution of an unknown kind is not booked: compare the account",
                kind=e.venue_kind,
                symbol=e.symbol,
                id=e.id,
            )
            self._health.unknown_executions = sorted(
                {*self._health.unknown_executions, e.venue_kind or "without a kind"}
            )
            self._pass_over(e)
            return True
        # since `began`: an earlier run's kill is in the first account
        ours = ours or e.client_id.startswith(EMERGENCY)
        if not ours and e.kind is not ExecutionKind.LIQUIDATION:
            _log.warning(
                "somebody else has traded in this account",
                symbol=e.symbol,
                qty=str(e.qty),
                adopted=self._adopts,
            )
            if not self._adopts:
                self._pass_over(e)
                return True
        self._told.add(e.id)
        self._health.fills += 1
        another = lost and self._is_of_another(e)
        for fill in self._fills(e):
            self._put(replace(fill, order_id=e.order_id) if another else fill)
        intent = self._intents.get(e.client_id)
        if intent is not None and not another:
            self.accept(intent, tell=False)
            intent.booked += e.qty
            intent.changed.set()
            self._intents.forget_done([intent])
        return True

    def _pass_over(self, execution: Execution) -> None:
        self._passed_over.add(execution.id)
        self.foreign = True

    def all_booked(self) -> bool:
        """Whether the core has booked all that it was told; what it has, it remembers itself."""
        self._told -= self._ledger.fill_ids
        return not self._told

    def _fills(self, execution: Execution) -> Iterable[Fill]:
        """The trade, with its fee in quote currency; a fee taken in base coin is a sale of that much, at the same price."""
        e, now = execution, self._clock.now()
        in_base = bool(e.fee_coin) and e.symbol.startswith(e.fee_coin)
        settled = not e.fee_coin or e.symbol.endswith(e.fee_coin)
        # paid in a third coin, it is outside of our ledger
        fee = e.fee * e.price if in_base else e.fee if settled else _ZERO
        kind = FillKind.LIQUIDATION if e.kind is ExecutionKind.LIQUIDATION else FillKind.TRADE
        yield Fill(e.id, e.order_name, e.symbol, e.ts, now, e.side, e.qty, e.price, fee, e.maker, kind=kind)
        if in_base and e.fee:
            side = Side.SELL if e.fee > 0 else Side.BUY
            kept = abs(e.fee)
            yield Fill(
                f"{e.id}.fee", e.order_name, e.symbol, e.ts, now, side, kept, e.price, _ZERO, kind=FillKind.FEE,
                reason="the fee was taken in base coin",
            )  # fmt: skip

    def _settlement(self, execution: Execution) -> FundingSettlement:
        e = execution
        return FundingSettlement(
            e.id, e.symbol, e.ts, self._clock.now(), e.rate, e.side.sign * e.qty, e.price, -e.fee
        )
