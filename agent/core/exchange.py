"""Interfaces of the exchanges that the engine can trade on.

Every `Exchange` accepts orders, cancels, and stops and take-profits that protect a position. A
`MatchingExchange` fills orders itself, from the bars that the engine passes to it; a `ReportingExchange`
books what a venue reports. They are classes rather than protocols because compiled code calls methods of
classes directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from hashlib import blake2b
from typing import Final

import msgspec

from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Fill,
    Funding,
    FundingPayment,
    FundingSettlement,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    RiskEvent,
    Side,
)
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.settings import CoreConfig

Report = Order | Cancel | Amend | OrderUpdate | Fill | FundingPayment | CashAdjustment | RiskEvent
"""The decisions that an exchange emits."""

ID_PREFIX: Final = "tw-"
"""Prefix of every client order id of Tapewire."""

MOVED: Final = "replaced by a newer trigger"
"""Reason of cancelling a protective order whose trigger has been moved."""


def run_prefix(run_id: str) -> str:
    """Return the prefix of a run's client order ids, 11 characters."""
    return ID_PREFIX + blake2b(run_id.encode(), digest_size=4).hexdigest()


def protective_order(
    id: str, symbol: str, now: int, side: Side, kind: OrderType, qty: Decimal, trigger: Decimal, oco: str
) -> Order:
    """Return the stop or take-profit of a position."""
    reason = kind.value.lower().replace("_", "-")
    return Order(id, symbol, now, side, kind, qty, trigger=trigger, reduce_only=True, oco=oco, reason=reason)


class Exchange:
    """Base class: keeps the working orders by symbol in `books`, and checks the instruments' rules.

    `emit` receives each report; `new_id` returns ids for orders that the exchange places itself.
    """

    def __init__(
        self,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        self.books: dict[str, list[WorkingOrder]] = {symbol: [] for symbol in instruments}
        self._instruments = instruments
        self._portfolio = portfolio
        self._emit = emit
        self._new_id = new_id
        self.run_prefix = ID_PREFIX  # prefix of this run's client order ids
        self.refusals: Counter[str] = Counter()  # rejected orders, by the rule that they broke
        self.states_cash = False  # True if every change of cash is reported; lives of early versions did not

    # -- orders -----------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        """Accept an order, or reject it if it breaks the instrument's rules."""
        raise NotImplementedError

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        """Cancel orders. At a venue they stay on the book, marked `cancelling`, until it confirms."""
        raise NotImplementedError

    def _flaw(self, order: Order) -> str:
        """Return which of the instrument's rules an order breaks; empty if it breaks none."""
        rules = self._instruments[order.symbol]
        price = order.price or order.trigger
        if order.qty <= 0 or order.qty % rules.qty_step:
            return f"quantity {order.qty} is not a positive multiple of {rules.qty_step}"
        if price is not None and (price <= 0 or price % rules.tick_size):
            return f"price {price} is not a positive multiple of the tick {rules.tick_size}"
        if order.reduce_only and rules.is_margined:
            return ""  # venues close positions of any size; on spot they have no reduce-only orders
        if order.qty < rules.min_qty:
            return f"quantity {order.qty} is below the minimum {rules.min_qty}"
        reference = price if price is not None else self._portfolio.positions[order.symbol].mark_decimal
        if reference and order.qty * reference < rules.min_notional:
            return f"value {order.qty * reference} is below the minimum {rules.min_notional}"
        return ""

    def _reject(self, order: Order, now: int, flaw: str) -> None:
        """Reject an order, and count it by the rule that it broke."""
        what, _, rule = flaw.partition(" is ")
        self.refusals[f"{what.partition(' ')[0]} {rule}"] += 1
        self._emit(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.REJECTED, reason=flaw))

    def protect(
        self, symbol: str, side: Side, stop: Decimal | None, take_profit: Decimal | None, now: int
    ) -> None:
        """Move the stop and take-profit of a position on `side` to new triggers; None leaves one unchanged.

        Working entries on that side attach the new triggers once they fill. While such an entry works, the
        protection of an earlier entry stays as it is. The new order is placed before the old one is
        cancelled, so that the position is never unprotected; an order that has begun to fill is not replaced.
        """
        book = self.books[symbol]
        entries: list[str] = []
        for working in book:
            if working.order.side is side and not working.order.reduce_only:
                entry = working.order
                entries.append(entry.id)
                working.order = msgspec.structs.replace(
                    entry,
                    stop=entry.stop if stop is None else stop,
                    take_profit=entry.take_profit if take_profit is None else take_profit,
                )
        held = self._portfolio.positions[symbol].qty
        qty = self._instruments[symbol].round_qty(abs(held))
        if held * side.sign <= 0 or not qty:
            return
        protective = [w for w in book if w.closes_position and not w.cancelling]
        group = protective[0].order.oco if protective else entries[-1] if entries else ""
        if any(w.filled for w in protective) or (protective and entries and group not in entries):
            return  # it has begun to fill, or protects an earlier entry while a newer one works
        opposite = Side.SELL if side is Side.BUY else Side.BUY
        for kind, trigger in ((OrderType.STOP, stop), (OrderType.TAKE_PROFIT, take_profit)):
            old = [w for w in protective if w.order.type is kind]
            if trigger is None or any(w.triggered for w in old) or (old and old[-1].order.trigger == trigger):
                continue
            new_id = self._new_id()
            group = group or new_id
            self._place_protection(
                protective_order(new_id, symbol, now, opposite, kind, qty, trigger, group), old, now
            )

    def _place_protection(self, order: Order, old: list[WorkingOrder], now: int) -> None:
        """Place an order that closes the whole position, then cancel the orders in `old`."""
        raise NotImplementedError


class MatchingExchange(Exchange):
    """An exchange that fills orders itself, from the market data that the engine passes to it."""

    def __init__(
        self,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(instruments, portfolio, emit, new_id)
        self.bars_met = 0  # bars in which an order worked
        self.bars_without_volume = 0  # those of them without any volume to take
        self.bars_below_a_lot = 0  # those of them of which less than one lot could be taken
        # by symbol: funding stamps strictly inside a bar that has not closed yet
        self.held_funding: dict[str, list[Funding]] = {}

    def on_kline(self, kline: Kline) -> None:
        """Match working orders against a closed bar."""
        raise NotImplementedError

    def on_price(self, kline: Kline) -> None:
        """Match working orders against the last price of a running bar."""
        raise NotImplementedError

    def at_close(self, kline: Kline) -> None:
        """Fill orders that were decided on this bar at its own close."""
        raise NotImplementedError

    def liquidation_price(self, position: Position) -> float:
        """Return the mark at which `liquidate` is due; NaN if no price liquidates the position."""
        raise NotImplementedError

    def liquidate(self, kline: Kline, price: float, first: float) -> None:
        """Close the position in the bar's symbol at `price`, or at `first` if the bar began beyond it."""
        raise NotImplementedError

    def on_funding(self, funding: Funding) -> None:
        """Book the funding payment of a stamp that has passed."""
        raise NotImplementedError


class ReportingExchange(Exchange):
    """An exchange that books what a venue reports. Each `on_…` method returns whether the report was new."""

    def __init__(
        self,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(instruments, portfolio, emit, new_id)
        # True from when the venue's history has more than this run's record until an operator resumes
        self.unaccepted = False

    def on_update(self, update: OrderUpdate) -> bool:
        """Apply a change of an order's state."""
        raise NotImplementedError

    def on_fill(self, fill: Fill) -> bool:
        """Book an execution."""
        raise NotImplementedError

    def on_settlement(self, settlement: FundingSettlement) -> bool:
        """Book funding that the venue has settled."""
        raise NotImplementedError

    def on_account(self, account: AccountSnapshot) -> str:
        """Compare a snapshot of the venue's account with the ledger; describe the difference, "" if none."""
        raise NotImplementedError

    def accept(self) -> None:
        """Accept the next account snapshot as the truth (the operator confirmed the drift)."""
        raise NotImplementedError

    def reissue(self, order_id: str, now: int, reason: str) -> bool:
        """End an order whose id belongs to another order at the venue; return whether it could still trade.

        An order that closes a position is placed again under a new id.
        """
        raise NotImplementedError

    def on_older_record(self) -> None:
        """Note that the venue's history has orders or executions of this run that the record lacks."""
        raise NotImplementedError


ExchangeFactory = Callable[
    [CoreConfig, dict[str, Instrument], Portfolio, Callable[[Report], None], Callable[[], str]], Exchange
]
"""Makes the exchange of an engine from configuration, instruments, ledger, `emit` and `new_id`."""
