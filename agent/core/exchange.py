"""What the engine trades on: orders go in, what became of them comes out. `paper` matches them itself, `venue` books a real one's word.

The base answers nothing to everything, so that each kind states only what concerns it. It is a class and not a protocol, since
compiled code calls its methods directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from hashlib import blake2b
from math import nan
from typing import Final

import msgspec

from agent.core.events import (
    Account,
    Amend,
    Cancel,
    CashAdjustment,
    Fill,
    Funding,
    FundingPayment,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    RiskEvent,
    Settlement,
    Side,
)
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position

Report = Order | Cancel | Amend | OrderUpdate | Fill | FundingPayment | CashAdjustment | RiskEvent
"""What an exchange emits: decisions, all of them."""


ID_PREFIX: Final = "tw-"
"""How each client order id of Tapewire begins."""


MOVED: Final = "replaced by a newer trigger"
"""Why a protective order is cancelled whose trigger has been moved."""


def run_prefix(run_id: str) -> str:
    """How the client order ids of a run begin, 11 characters."""
    return ID_PREFIX + blake2b(run_id.encode(), digest_size=4).hexdigest()


class Exchange:
    """Working orders by symbol, in `books`. `emit` receives what is reported, `new_id` makes the ids of orders that it places itself."""

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
        self.run_prefix = ID_PREFIX  # how the ids of this run's orders begin
        # orders that broke a rule or could not be paid, by what was wrong
        self.refusals: Counter[str] = Counter()
        # bars in which an order worked on paper, and those of them that had no volume to take
        self.bars_met = 0
        self.bars_without_volume = 0
        self.bars_below_a_lot = 0  # of which less than one lot could be taken
        # by symbol: stamps strictly inside a bar that has yet to come
        self.held_funding: dict[str, list[Funding]] = {}
        # every change of cash is reported; the first lives of earlier runs did without
        self.states_cash = False
        # a venue's history has more than the record of this run, and no person has resumed since
        self.unaccepted = False

    # -- orders ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        """Take an order; one that breaks the instrument's rules is rejected."""
        raise NotImplementedError

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        """Take orders off the book, at once or as soon as a venue has done so: until then they are `cancelling`."""
        raise NotImplementedError

    def _flaw(self, order: Order) -> str:
        """Which of the instrument's rules an order breaks, in words; empty where it breaks none."""
        rules = self._instruments[order.symbol]
        price = order.price or order.trigger
        if order.qty <= 0 or order.qty % rules.qty_step:
            return f"quantity {order.qty} is not a positive multiple of {rules.qty_step}"
        if price is not None and (price <= 0 or price % rules.tick_size):
            return f"price {price} is not a positive multiple of the tick {rules.tick_size}"
        if order.reduce_only and rules.is_margined:
            return ""  # a venue closes positions of any size; on spot it knows no order that only reduces
        if order.qty < rules.min_qty:
            return f"quantity {order.qty} is below the minimum {rules.min_qty}"
        reference = price if price is not None else self._portfolio.positions[order.symbol].mark_decimal
        if reference and order.qty * reference < rules.min_notional:
            return f"value {order.qty * reference} is below the minimum {rules.min_notional}"
        return ""

    def _reject(self, order: Order, now: int, flaw: str) -> None:
        """Refuse an order for its `flaw`, and count it by the rule that it broke."""
        what, _, rule = flaw.partition(" is ")
        self.refusals[f"{what.partition(' ')[0]} {rule}"] += 1
        self._emit(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.REJECTED, reason=flaw))

    def protect(
        self, symbol: str, side: Side, stop: Decimal | None, take_profit: Decimal | None, now: int
    ) -> None:
        """Move the protection of a position on `side` to new triggers; None leaves what there is.

        An entry that still works attaches the new triggers when it is filled, and leaves the protection of an earlier one. For a
        position the new order is placed before the old one is cancelled, so that it is never without; one that is being carried out
        stays.
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
            # being carried out; or of an earlier entry, whose protection stays until the one that works is
            # filled
            return
        opposite = Side.SELL if side is Side.BUY else Side.BUY
        for kind, trigger in ((OrderType.STOP, stop), (OrderType.TAKE_PROFIT, take_profit)):
            old = [w for w in protective if w.order.type is kind]
            if trigger is None or any(w.triggered for w in old) or (old and old[-1].order.trigger == trigger):
                continue
            new_id = self._new_id()
            group = group or new_id
            order = Order(
                new_id, symbol, now, opposite, kind, qty, trigger=trigger, reduce_only=True, oco=group,
                reason=kind.value.lower().replace("_", "-"),
            )  # fmt: skip
            self._place_protection(order, old, now)

    def _place_protection(self, order: Order, old: list[WorkingOrder], now: int) -> None:
        """Emit an order that closes the whole position, and have it work from now on instead of `old`."""
        raise NotImplementedError

    # -- the market --------------------------------------------------------------------------------------------------

    def on_kline(self, kline: Kline) -> None:
        """Meet a closed bar."""

    def on_price(self, kline: Kline) -> None:
        """Meet the last price of a running bar."""

    def at_close(self, kline: Kline) -> None:
        """Fill at its own close what was decided on this bar."""

    def liquidation_price(self, position: Position) -> float:
        """The mark at which `liquidate` is due; NaN where it never is."""
        return nan

    def liquidate(self, kline: Kline, price: float, first: float) -> None:
        """Close the position in the bar's symbol."""

    def on_funding(self, funding: Funding) -> None:
        """A stamp has passed: book funding."""

    # -- a venue's answers -------------------------------------------------------------------------------------------

    def on_update(self, update: OrderUpdate) -> bool:
        """A change in an order's life; whether it was news."""
        return False

    def on_fill(self, fill: Fill) -> bool:
        """An execution; whether it was news."""
        return False

    def on_settlement(self, settlement: Settlement) -> bool:
        """Funding that was booked; whether it was news."""
        return False

    def on_account(self, account: Account) -> str:
        """The account as the venue has it; what the ledger has otherwise, in words."""
        return ""

    def accept(self) -> None:
        """A person has looked: the next account is right, whatever the ledger says."""

    def reissue(self, order_id: str, now: int, reason: str) -> bool:
        """Another order has this id at the venue: end ours as rejected, and place what closes a position under a new id.

        Returns whether the order was still expected to trade.
        """
        return False

    def on_older_record(self) -> None:
        """The venue's history has orders or executions of this run that its record has lost."""
