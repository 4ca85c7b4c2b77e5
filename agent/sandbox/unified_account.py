"""The unified account: orders from request to final state, and notification of the listener."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from agent.core.events import Fill, FillKind, FundingPayment, Order, OrderStatus, OrderUpdate, Side
from agent.core.exchange import Report
from agent.sandbox.account_events import AccountExecution, AccountListener, ClosedProfit, split_fill
from agent.sandbox.bybit_errors import (
    BybitError,
    error_by_category,
    insufficient_funds,
    order_not_found,
    parameter_error,
)
from agent.sandbox.category_book import CategoryBook, Leg
from agent.sandbox.json_values import Params
from agent.sandbox.listed_instruments import SETTLE_COIN, Instruments, split_symbol
from agent.sandbox.replay_market import PublicTrade, ReplayMarket
from agent.sandbox.sandbox_options import SandboxOptions
from agent.sandbox.sandbox_order import SandboxOrder, check_price, check_protection, check_size, parse_order
from agent.sandbox.triggers import Triggers
from agent.sandbox.wallet import UnifiedWallet

MATCH_DELAY_S: Final = 0.01
"""Delay of matching, so that the acknowledgement of an order is sent first."""
_MAX_OPEN: Final = 500
_MAX_CONDITIONAL: Final = 10
_ZERO: Final = Decimal(0)
_REASONS: Final = {
    "post-only order would take liquidity": "EC_PostOnlyWillTakeLiquidity",
    "insufficient balance": "EC_NotEnoughBalance",
    "reduce-only order, but there is no position to reduce": "EC_ReduceOnlyRuleNotSatisfied",
}
_STATUS: Final = {
    OrderStatus.PARTIALLY_FILLED: "PartiallyFilled",
    OrderStatus.FILLED: "Filled",
    OrderStatus.REJECTED: "Rejected",
}
_BY_USER: Final = "cancelled by user"


class UnifiedAccount:
    """Account whose orders are matched by the paper exchanges of its category books.

    `now` returns the venue's time (UTC ms); `call_later` calls a function after a number of seconds. Methods
    that handle requests raise BybitError.
    """

    def __init__(
        self,
        options: SandboxOptions,
        instruments: Instruments,
        market: ReplayMarket,
        listener: AccountListener,
        now: Callable[[], int],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.instruments = instruments
        self.market = market
        self.now = now
        self.books = {
            "linear": CategoryBook("linear", instruments, options.balance, self._on_report),
            "spot": CategoryBook("spot", instruments, _ZERO, self._on_report),
        }
        self.orders: dict[str, SandboxOrder] = {}
        self.open: dict[str, SandboxOrder] = {}
        self.executions: list[AccountExecution] = []
        self.closed: list[ClosedProfit] = []
        self.wallet = UnifiedWallet(self.books["linear"], self.books["spot"], self.open)
        self.hedged: set[str] = set()
        self.margin_mode = "REGULAR_MARGIN"
        self.triggers = Triggers(self)
        self._links: dict[str, SandboxOrder] = {}
        self._listener = listener
        self._call_later = call_later
        self._parts = options.partial_fills
        self._funding_rate = options.funding_rate
        self._next_funding = market.next_funding(options.funding_interval)
        self._fill: Fill | None = None
        self._realised = _ZERO
        market.listeners.append(self)

    # -- requests -------------------------------------------------------------------------------------------

    def place_order(self, params: Params) -> SandboxOrder:
        """Accept an order and schedule its matching."""
        category = params.text("category")
        symbol = params.text("symbol")
        rules = self.instruments.find_for_order(category, symbol)
        side = Side.SELL if params.text("side") == "Sell" else Side.BUY
        order = parse_order(
            params, category, rules, self.last_price(symbol), self.instruments.best(rules, side), self.now()
        )
        if order.link and order.link in self._links:
            raise error_by_category(
                category,
                linear=(110072, "OrderLinkedID is duplicate"),
                spot=(170141, "Duplicate clientOrderId."),
            )
        active = [o for o in self.open.values() if (o.category, o.symbol) == (category, symbol)]
        if len(active) >= _MAX_OPEN or (
            order.conditional and sum(o.conditional for o in active) >= _MAX_CONDITIONAL
        ):
            raise error_by_category(
                category, linear=(110020, "Too many active orders."), spot=(170810, "Too many active orders.")
            )
        if category == "linear":
            self._check_position(order)
        if not order.conditional:
            self.check_funds(order)
        self.accept(order)
        return order

    def accept(self, order: SandboxOrder) -> None:
        """Store an order that passed its checks, and submit it unless it is conditional."""
        self.orders[order.id] = self.open[order.id] = order
        if order.link:
            self._links[order.link] = order
        self.publish(order)
        if not order.conditional:
            self.submit(order)
            self.wallet.fund_spot()
            self._match_soon(order)

    def submit(self, order: SandboxOrder) -> None:
        book = self.books[order.category]
        book.exchange.submit(order.for_matching(book.leg_of(order).key, self.now()), self.now())

    def amend(self, params: Params) -> SandboxOrder:
        """Change price, quantity, trigger or attached protection of an open order."""
        order = self.find_open(params, "replace")
        rules = self.instruments.find(order.category, order.symbol)
        qty, price, trigger = (
            params.positive("qty"),
            params.positive("price"),
            params.positive("triggerPrice"),
        )
        protection = {
            name: params.positive(key)
            for name, key in (("take_profit", "takeProfit"), ("stop_loss", "stopLoss"))
        }
        asked = {"qty": qty, "price": price, "trigger": trigger, **protection}
        changes = {
            name: value
            for name, value in asked.items()
            if value is not None and value != getattr(order, name)
        }
        if not changes:
            raise parameter_error(
                "The order remains unchanged as the parameters entered match the existing ones."
            )
        if price is not None:
            check_price(order.category, rules, order.side, price, self.last_price(order.symbol))
        check_protection(
            rules, order.side, price or order.price or self.last_price(order.symbol), *protection.values()
        )
        before = {name: getattr(order, name) for name in changes}
        self._set_fields(order, changes)
        try:
            check_size(order, rules, self.last_price(order.symbol))
            self._check_overdrawn(order)
            problem = self._amend_working(order, qty, price)
            if problem:
                raise parameter_error(f"params error: {problem}")
        except BybitError:
            self._set_fields(order, before)
            raise
        order.updated = self.now()
        self.publish(order)
        if not order.conditional:
            self._match_soon(order)
        return order

    def _amend_working(self, order: SandboxOrder, qty: Decimal | None, price: Decimal | None) -> str:
        book = self.books[order.category]
        working = book.working(order)
        return book.exchange.amend(working, qty=qty, price=price) if working else ""

    @staticmethod
    def _set_fields(order: SandboxOrder, values: Mapping[str, Decimal | None]) -> None:
        for name, value in values.items():
            setattr(order, name, value)

    def cancel(self, order: SandboxOrder) -> None:
        book = self.books[order.category]
        working = book.working(order)
        if working is None:
            self.end_order(order, "CancelByUser", "EC_PerCancelRequest")
        else:
            book.exchange.cancel([working], self.now(), _BY_USER)

    def end_order(self, order: SandboxOrder, cancel_type: str, reason: str) -> None:
        """Cancel an order that the paper exchange doesn't hold."""
        order.status = "Deactivated" if order.conditional else "Cancelled"
        order.cancel_type, order.reject_reason = cancel_type, reason
        self._finish(order)

    def find(self, params: Params) -> SandboxOrder | None:
        """Return the order that a request names by orderId, which takes precedence, or orderLinkId."""
        if identity := params.text("orderId", ""):
            return self.orders.get(identity)
        return self._links.get(params.text("orderLinkId", ""))

    def find_open(self, params: Params, verb: str) -> SandboxOrder:
        """Return the open order that a request names, or raise BybitError; `verb` is part of its text."""
        category = params.text("category")
        symbol = params.text("symbol")
        self.instruments.find_for_order(category, symbol)
        if not params.text("orderId", "") and not params.text("orderLinkId", ""):
            raise parameter_error("params error: OrderId or orderLinkId is required")
        order = self.find(params)
        if order is None or not order.open or (order.category, order.symbol) != (category, symbol):
            raise order_not_found(category, verb)
        return order

    # -- checks ---------------------------------------------------------------------------------------------

    def last_price(self, symbol: str) -> Decimal:
        return Decimal(repr(self.instruments.last_price(symbol)))

    def _check_position(self, order: SandboxOrder) -> None:
        """Check position index and reduce-only, and cap a reducing order at the position's size."""
        if (order.index != 0) != (order.symbol in self.hedged) or order.index > 2:
            raise parameter_error("position idx not match position mode")
        closes = {1: Side.SELL, 2: Side.BUY}.get(order.index)
        order.reduce_only = order.reduce_only or order.side is closes
        if not order.reduce_only or order.conditional:
            return
        held = self.books["linear"].leg_of(order).reducible(order.side)
        if not held:
            raise BybitError(110017, "current position is zero, cannot fix reduce-only order qty")
        order.qty = min(order.qty or held, held)

    def check_funds(self, order: SandboxOrder) -> None:
        """Raise BybitError if balance or margin does not cover the order."""
        rules = self.instruments.find(order.category, order.symbol)
        price = order.price or self.instruments.best(rules, order.side)
        if order.category == "spot":
            if order.side is Side.BUY:
                enough = (order.quote_qty or order.qty * price) <= self.wallet.spendable()
            else:
                base = split_symbol(order.symbol)[0]
                enough = order.qty <= self.wallet.holdings(base) - self.wallet.locked(base)
        else:
            book = self.books["linear"]
            leg = book.leg_of(order)
            opening = _ZERO if order.reduce_only else max(_ZERO, order.qty - leg.reducible(order.side))
            enough = (
                not opening
                or opening * price * (1 / book.leverage(leg) + rules.taker_fee) <= self.wallet.available()
            )
        if not enough:
            raise insufficient_funds(order.category)

    def _check_overdrawn(self, order: SandboxOrder) -> None:
        """Raise BybitError if the amended order, already counted as open, exceeds balance or margin."""
        base = split_symbol(order.symbol)[0]
        if order.category == "spot":
            self.wallet.fund_spot()
            over = order.side is Side.SELL and self.wallet.locked(base) > self.wallet.holdings(base)
        else:
            over = False
        if over or self.wallet.available() < 0:
            raise insufficient_funds(order.category)

    # -- the market -----------------------------------------------------------------------------------------

    def on_trade(self, trade: PublicTrade) -> None:
        """Apply a new price: due funding, triggers, orders, liquidation."""
        if trade.time >= self._next_funding:
            stamp, self._next_funding = (
                self._next_funding,
                self.market.next_funding(self.instruments.funding_interval),
            )
            for symbol in self.instruments.symbols:
                self.books["linear"].pay_funding(symbol, stamp, self.now(), self._funding_rate)
        self._match(trade.symbol)

    def on_close(self, symbol: str, index: int) -> None:
        """Do nothing: orders have been matched with every price of the bar."""

    def _match_soon(self, order: SandboxOrder) -> None:
        self._call_later(MATCH_DELAY_S, lambda: self._match(order.symbol))

    def _match(self, symbol: str) -> None:
        quote = self.market.quotes[symbol]
        self.triggers.fire(symbol, quote.last)
        self.wallet.fund_spot()
        for book in self.books.values():
            book.match(quote, self.now())
        self.wallet.fund_spot()

    def _on_report(self, book: CategoryBook, event: Report) -> None:
        """Handle a report. A fill is kept until its order update, which follows at once."""
        if isinstance(event, Fill):
            self._fill = event
        elif isinstance(event, OrderUpdate):
            self._on_order_update(book, event)
        elif isinstance(event, FundingPayment):
            self._book_funding(book, event)
        elif isinstance(event, Order):
            leg = book.leg(event.symbol)
            order = SandboxOrder(
                book.category,
                leg.symbol,
                event.side,
                "Market",
                event.qty,
                event.ts,
                id=event.id,
                index=leg.index,
            )
            order.create_type, order.reduce_only, order.tif, order.updated = (
                "CreateByLiq",
                True,
                "IOC",
                event.ts,
            )
            self.orders[order.id] = self.open[order.id] = order

    def _on_order_update(self, book: CategoryBook, update: OrderUpdate) -> None:
        order = self.orders[update.order_id]
        order.updated = update.ts
        status = _STATUS.get(update.status, "Cancelled")
        if self._fill is not None:
            fill, self._fill = self._fill, None
            self._book_fill(book, order, fill, status)
            return
        order.status = status
        if status == "Cancelled":
            if book.category == "spot" and order.filled:
                order.status = "PartiallyFilledCanceled"
            by_user = update.reason == _BY_USER
            order.cancel_type = "CancelByUser" if by_user else "UNKNOWN"
            too_thin = "EC_CancelForNoFullFill" if order.filled else "EC_NoImmediateQtyToFill"
            order.reject_reason = "EC_PerCancelRequest" if by_user else _REASONS.get(update.reason, too_thin)
        elif status == "Rejected":
            order.reject_reason = "EC_Others"
        self._finish(order)

    def _book_fill(self, book: CategoryBook, order: SandboxOrder, fill: Fill, status: str) -> None:
        """Book a fill on its order and position, and report it as one or more executions."""
        leg = book.leg(fill.symbol)
        rules = book.rules[fill.symbol]
        in_base = book.category == "spot" and fill.side is Side.BUY
        fee, coin = (
            (fill.fee / fill.price, split_symbol(order.symbol)[0]) if in_base else (fill.fee, SETTLE_COIN)
        )
        if in_base and fee:
            self._pay_fee_in_base(book, fill, fee)
        profit = self._book_profit(book, leg, order, fill) if book.category == "linear" else None
        shares = list(split_fill(fill, rules, self._parts))
        for number, qty in enumerate(shares, 1):
            share = qty / fill.qty
            order.filled += qty
            order.value += qty * fill.price
            order.fees[coin] = order.fees.get(coin, _ZERO) + fee * share
            order.closed_pnl += profit.pnl * share if profit else _ZERO
            order.status = status if number == len(shares) else "PartiallyFilled"
            execution = AccountExecution(
                order,
                book.category,
                order.symbol,
                fill.side,
                qty,
                fill.price,
                fee * share,
                rules.maker_fee if fill.maker else rules.taker_fee,
                coin,
                fill.ts,
                leg.held.mark_decimal,
                kind="BustTrade" if fill.kind is FillKind.LIQUIDATION else "Trade",
                maker=fill.maker,
                leaves=order.qty - order.filled,
                closed=profit.qty * share if profit else _ZERO,
                pnl=profit.pnl * share if profit else _ZERO,
            )
            self.executions.append(execution)
            self._listener.on_execution(execution)
            if order.open:
                self._listener.on_order(order)
        if book.category == "linear":
            self.triggers.on_fill(leg, order)
        if order.open:
            self._publish_position(order)
        else:
            self._finish(order)

    def _pay_fee_in_base(self, book: CategoryBook, fill: Fill, fee: Decimal) -> None:
        """Swap a fee charged in quote currency into base coin: spot buyers pay in the coin bought."""
        swap = Fill(
            f"{fill.id}.fee",
            fill.order_id,
            fill.symbol,
            fill.ts,
            fill.available_at,
            Side.SELL,
            fee,
            fill.price,
            _ZERO,
        )
        book.portfolio.apply(swap)

    def _book_profit(
        self, book: CategoryBook, leg: Leg, order: SandboxOrder, fill: Fill
    ) -> ClosedProfit | None:
        """Book profit and fees of a fill; return the profit if the fill closed a position or a part of it."""
        portfolio = book.portfolio
        gross, self._realised = portfolio.realised - self._realised, portfolio.realised
        signed = fill.qty * fill.side.sign
        before = leg.held.qty - signed
        closed = min(fill.qty, abs(before)) if before * signed < 0 else _ZERO
        closing_fee = fill.fee * closed / fill.qty
        if not before or before * leg.held.qty < 0:
            leg.created, leg.realised = fill.ts, _ZERO
        opening_fee = leg.opening_fees * closed / abs(before) if closed else _ZERO
        leg.opening_fees += fill.fee - closing_fee - opening_fee
        leg.add_realised(gross - fill.fee, fill.ts)
        if not closed:
            return None
        exit_price = fill.price
        entry = exit_price - gross / closed if before > 0 else exit_price + gross / closed
        pnl = gross - opening_fee - closing_fee
        profit = ClosedProfit(
            order, closed, entry, exit_price, pnl, opening_fee, closing_fee, book.leverage(leg), fill.ts
        )
        self.closed.append(profit)
        return profit

    def _book_funding(self, book: CategoryBook, payment: FundingPayment) -> None:
        leg = book.leg(payment.symbol)
        leg.add_realised(payment.amount, payment.ts)
        side = Side.BUY if payment.qty > 0 else Side.SELL
        execution = AccountExecution(
            None,
            book.category,
            leg.symbol,
            side,
            abs(payment.qty),
            payment.mark,
            -payment.amount,
            payment.rate,
            SETTLE_COIN,
            payment.ts,
            payment.mark,
            kind="Funding",
        )
        self.executions.append(execution)
        self._listener.on_execution(execution)
        self._listener.on_position(leg)
        self._listener.on_wallet()

    # -- notifications --------------------------------------------------------------------------------------

    def _finish(self, order: SandboxOrder) -> None:
        order.updated = self.now()
        self.open.pop(order.id, None)
        self.publish(order)

    def publish(self, order: SandboxOrder) -> None:
        """Notify the listener of an order and of its position and wallet."""
        self._listener.on_order(order)
        self._publish_position(order)

    def _publish_position(self, order: SandboxOrder) -> None:
        if order.category == "linear":
            self._listener.on_position(self.books["linear"].leg_of(order))
        self._listener.on_wallet()
