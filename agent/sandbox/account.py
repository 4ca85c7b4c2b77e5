"""One unified account: orders from their request to their end, the desks that match them, and everybody who must be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from agent.core.events import Fill, FillKind, FundingPayment, Order, OrderStatus, OrderUpdate, Side
from agent.core.exchange import Report
from agent.sandbox.audience import Audience
from agent.sandbox.desk import Desk, Leg
from agent.sandbox.errors import Refusal, by_category, no_such_order, parameter, too_little_money
from agent.sandbox.executions import ClosedProfit, Execution, parts
from agent.sandbox.listing import FUNDING_INTERVAL_MS, SETTLE_COIN, Listing, split
from agent.sandbox.market import Market, Trade
from agent.sandbox.options import SandboxOptions
from agent.sandbox.orders import VenueOrder, check_price, check_protection, check_size, parse_order
from agent.sandbox.params import Params
from agent.sandbox.triggers import Triggers
from agent.sandbox.wallet import Wallet

MATCH_DELAY_S: Final = 0.01
"""An order meets the market after its acknowledgement has left."""
_MOST_OPEN: Final = 500
_MOST_CONDITIONAL: Final = 10
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


class Account:
    """All orders are matched by the desks' `PaperExchange`; this class speaks for the venue before and after.

    `now` gives the venue's time (UTC ms), `later` calls a function after so many seconds. Every request refuses by `Refusal`.
    """

    def __init__(
        self,
        options: SandboxOptions,
        listing: Listing,
        market: Market,
        audience: Audience,
        now: Callable[[], int],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.listing = listing
        self.market = market
        self.now = now
        self.desks = {
            "linear": Desk("linear", listing, options.balance, self._hear),
            "spot": Desk("spot", listing, _ZERO, self._hear),
        }
        self.orders: dict[str, VenueOrder] = {}
        self.open: dict[str, VenueOrder] = {}
        self.executions: list[Execution] = []
        self.closed: list[ClosedProfit] = []
        self.wallet = Wallet(self.desks["linear"], self.desks["spot"], self.open)
        self.hedged: set[str] = set()
        self.margin_mode = "REGULAR_MARGIN"
        self.triggers = Triggers(self)
        self._links: dict[str, VenueOrder] = {}
        self._audience = audience
        self._later = later
        self._parts = options.partial_fills
        self._funding_rate = options.funding_rate
        self._next_funding = market.next_funding(FUNDING_INTERVAL_MS)
        self._fill: Fill | None = None
        self._realised = _ZERO
        market.listeners.append(self)

    # -- requests ----------------------------------------------------------------------------------------------------

    def place(self, params: Params) -> VenueOrder:
        """Accept an order; it meets the market a moment later."""
        category = params.text("category")
        symbol = params.text("symbol")
        rules = self.listing.tradable(category, symbol)
        side = Side.SELL if params.text("side") == "Sell" else Side.BUY
        order = parse_order(
            params, category, rules, self.last(symbol), self.listing.best(rules, side), self.now()
        )
        if order.link and order.link in self._links:
            raise by_category(
                category,
                linear=(110072, "OrderLinkedID is duplicate"),
                spot=(170141, "Duplicate clientOrderId."),
            )
        active = [o for o in self.open.values() if (o.category, o.symbol) == (category, symbol)]
        if len(active) >= _MOST_OPEN or (
            order.conditional and sum(o.conditional for o in active) >= _MOST_CONDITIONAL
        ):
            raise by_category(
                category, linear=(110020, "Too many active orders."), spot=(170810, "Too many active orders.")
            )
        if category == "linear":
            self._check_position(order)
        if not order.conditional:
            self.check_funds(order)
        self.accept(order)
        return order

    def accept(self, order: VenueOrder) -> None:
        """Take an order that passed its checks into the books, and say so."""
        self.orders[order.id] = self.open[order.id] = order
        if order.link:
            self._links[order.link] = order
        self.tell(order)
        if not order.conditional:
            self.submit(order)
            self.wallet.fund_spot()
            self._match_soon(order)

    def submit(self, order: VenueOrder) -> None:
        """Hand an order to the paper exchange."""
        desk = self.desks[order.category]
        desk.exchange.submit(order.for_matching(desk.leg_of(order).key, self.now()), self.now())

    def amend(self, params: Params) -> VenueOrder:
        """Change price, quantity, trigger or attached protection of an open order."""
        order = self.find_open(params, "replace")
        rules = self.listing.instrument(order.category, order.symbol)
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
            raise parameter("The order remains unchanged as the parameters entered match the existing ones.")
        if price is not None:
            check_price(order.category, rules, order.side, price, self.last(order.symbol))
        check_protection(
            rules, order.side, price or order.price or self.last(order.symbol), *protection.values()
        )
        before = {name: getattr(order, name) for name in changes}
        self._change(order, changes)
        try:
            check_size(order, rules, self.last(order.symbol))
            self._check_overdrawn(order)
            flaw = self._amend_working(order, qty, price)
            if flaw:
                raise parameter(f"params error: {flaw}")
        except Refusal:
            self._change(order, before)
            raise
        order.updated = self.now()
        self.tell(order)
        if not order.conditional:
            self._match_soon(order)
        return order

    def _amend_working(self, order: VenueOrder, qty: Decimal | None, price: Decimal | None) -> str:
        desk = self.desks[order.category]
        working = desk.working(order)
        return desk.exchange.amend(working, qty=qty, price=price) if working else ""

    @staticmethod
    def _change(order: VenueOrder, values: Mapping[str, Decimal | None]) -> None:
        for name, value in values.items():
            setattr(order, name, value)

    def cancel(self, order: VenueOrder) -> None:
        """Take an open order back."""
        desk = self.desks[order.category]
        working = desk.working(order)
        if working is None:
            self.end(order, "CancelByUser", "EC_PerCancelRequest")
        else:
            desk.exchange.cancel([working], self.now(), _BY_USER)

    def end(self, order: VenueOrder, cancel_type: str, reason: str) -> None:
        """Close an order that the paper exchange doesn't hold."""
        order.status = "Deactivated" if order.conditional else "Cancelled"
        order.cancel_type, order.reject_reason = cancel_type, reason
        self._finish(order)

    def find(self, params: Params) -> VenueOrder | None:
        """The order that a request names by orderId, which wins, or orderLinkId."""
        if identity := params.text("orderId", ""):
            return self.orders.get(identity)
        return self._links.get(params.text("orderLinkId", ""))

    def find_open(self, params: Params, verb: str) -> VenueOrder:
        """As `find`, of this category and symbol, and not ended."""
        category = params.text("category")
        symbol = params.text("symbol")
        self.listing.tradable(category, symbol)
        if not params.text("orderId", "") and not params.text("orderLinkId", ""):
            raise parameter("params error: OrderId or orderLinkId is required")
        order = self.find(params)
        if order is None or not order.open or (order.category, order.symbol) != (category, symbol):
            raise no_such_order(category, verb)
        return order

    # -- checks ------------------------------------------------------------------------------------------------------

    def last(self, symbol: str) -> Decimal:
        """The last price."""
        return Decimal(repr(self.listing.last(symbol)))

    def _check_position(self, order: VenueOrder) -> None:
        """Position index and reduce-only; a reduction is cut to what is held."""
        if (order.index != 0) != (order.symbol in self.hedged) or order.index > 2:
            raise parameter("position idx not match position mode")
        closes = {1: Side.SELL, 2: Side.BUY}.get(order.index)
        order.reduce_only = order.reduce_only or order.side is closes
        if not order.reduce_only or order.conditional:
            return
        held = self.desks["linear"].leg_of(order).reducible(order.side)
        if not held:
            raise Refusal(110017, "current position is zero, cannot fix reduce-only order qty")
        order.qty = min(order.qty or held, held)

    def check_funds(self, order: VenueOrder) -> None:
        """Refuse what balance or margin does not carry."""
        rules = self.listing.instrument(order.category, order.symbol)
        price = order.price or self.listing.best(rules, order.side)
        if order.category == "spot":
            if order.side is Side.BUY:
                enough = (order.quote_qty or order.qty * price) <= self.wallet.spendable()
            else:
                base = split(order.symbol)[0]
                enough = order.qty <= self.wallet.holdings(base) - self.wallet.locked(base)
        else:
            desk = self.desks["linear"]
            leg = desk.leg_of(order)
            opening = _ZERO if order.reduce_only else max(_ZERO, order.qty - leg.reducible(order.side))
            enough = (
                not opening
                or opening * price * (1 / desk.leverage(leg) + rules.taker_fee) <= self.wallet.available()
            )
        if not enough:
            raise too_little_money(order.category)

    def _check_overdrawn(self, order: VenueOrder) -> None:
        """Refuse an amended order that, as it now counts among the open ones, asks for more than there is."""
        base = split(order.symbol)[0]
        if order.category == "spot":
            self.wallet.fund_spot()
            over = order.side is Side.SELL and self.wallet.locked(base) > self.wallet.holdings(base)
        else:
            over = False
        if over or self.wallet.available() < 0:
            raise too_little_money(order.category)

    # -- the market --------------------------------------------------------------------------------------------------

    def on_trade(self, trade: Trade) -> None:
        """A new price: funding that is due, triggers, orders, liquidation."""
        if trade.time >= self._next_funding:
            stamp, self._next_funding = self._next_funding, self.market.next_funding(FUNDING_INTERVAL_MS)
            for symbol in self.listing.symbols:
                self.desks["linear"].fund(symbol, stamp, self.now(), self._funding_rate)
        self._match(trade.symbol)

    def on_close(self, symbol: str, index: int) -> None:
        """Nothing: orders have met every price of the bar."""

    def _match_soon(self, order: VenueOrder) -> None:
        self._later(MATCH_DELAY_S, lambda: self._match(order.symbol))

    def _match(self, symbol: str) -> None:
        quote = self.market.quotes[symbol]
        self.triggers.fire(symbol, quote.last)
        self.wallet.fund_spot()
        for desk in self.desks.values():
            desk.match(quote, self.now())
        self.wallet.fund_spot()

    def _hear(self, desk: Desk, event: Report) -> None:
        """What the paper exchange reports. A fill's update follows at once and completes it."""
        if isinstance(event, Fill):
            self._fill = event
        elif isinstance(event, OrderUpdate):
            self._update(desk, event)
        elif isinstance(event, FundingPayment):
            self._funded(desk, event)
        elif isinstance(event, Order):
            leg = desk.leg(event.symbol)
            order = VenueOrder(
                desk.category,
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

    def _update(self, desk: Desk, update: OrderUpdate) -> None:
        order = self.orders[update.order_id]
        order.updated = update.ts
        status = _STATUS.get(update.status, "Cancelled")
        if self._fill is not None:
            fill, self._fill = self._fill, None
            self._filled(desk, order, fill, status)
            return
        order.status = status
        if status == "Cancelled":
            if desk.category == "spot" and order.filled:
                order.status = "PartiallyFilledCanceled"
            by_user = update.reason == _BY_USER
            order.cancel_type = "CancelByUser" if by_user else "UNKNOWN"
            too_thin = "EC_CancelForNoFullFill" if order.filled else "EC_NoImmediateQtyToFill"
            order.reject_reason = "EC_PerCancelRequest" if by_user else _REASONS.get(update.reason, too_thin)
        elif status == "Rejected":
            order.reject_reason = "EC_Others"
        self._finish(order)

    def _filled(self, desk: Desk, order: VenueOrder, fill: Fill, status: str) -> None:
        """Book a fill on its order and position, and tell it in parts."""
        leg = desk.leg(fill.symbol)
        rules = desk.rules[fill.symbol]
        in_base = desk.category == "spot" and fill.side is Side.BUY
        fee, coin = (fill.fee / fill.price, split(order.symbol)[0]) if in_base else (fill.fee, SETTLE_COIN)
        if in_base and fee:
            self._pay_in_base(desk, fill, fee)
        profit = self._profit(desk, leg, order, fill) if desk.category == "linear" else None
        shares = list(parts(fill, rules, self._parts))
        for number, qty in enumerate(shares, 1):
            share = qty / fill.qty
            order.filled += qty
            order.value += qty * fill.price
            order.fees[coin] = order.fees.get(coin, _ZERO) + fee * share
            order.closed_pnl += profit.pnl * share if profit else _ZERO
            order.status = status if number == len(shares) else "PartiallyFilled"
            execution = Execution(
                order, desk.category, order.symbol, fill.side, qty, fill.price, fee * share,
                rules.maker_fee if fill.maker else rules.taker_fee, coin, fill.ts, leg.held.mark_decimal,
                kind="BustTrade" if fill.kind is FillKind.LIQUIDATION else "Trade", maker=fill.maker, leaves=order.qty - order.filled,
                closed=profit.qty * share if profit else _ZERO, pnl=profit.pnl * share if profit else _ZERO,
            )  # fmt: skip
            self.executions.append(execution)
            self._audience.on_execution(execution)
            if order.open:
                self._audience.on_order(order)
        if desk.category == "linear":
            self.triggers.follow(leg, order)
        if order.open:
            self._tell_position(order)
        else:
            self._finish(order)

    def _pay_in_base(self, desk: Desk, fill: Fill, fee: Decimal) -> None:
        """On spot a buyer pays its fee in the coin bought: what the ledger took in quote currency is swapped back."""
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
        desk.portfolio.apply(swap)

    def _profit(self, desk: Desk, leg: Leg, order: VenueOrder, fill: Fill) -> ClosedProfit | None:
        """Book what a fill has earned and cost; the profit of what it closed."""
        portfolio = desk.portfolio
        gross, self._realised = portfolio.realised - self._realised, portfolio.realised
        signed = fill.qty * fill.side.sign
        before = leg.held.qty - signed
        closed = min(fill.qty, abs(before)) if before * signed < 0 else _ZERO
        closing_fee = fill.fee * closed / fill.qty
        if not before or before * leg.held.qty < 0:
            leg.created, leg.realised = fill.ts, _ZERO
        opening_fee = leg.opening_fees * closed / abs(before) if closed else _ZERO
        leg.opening_fees += fill.fee - closing_fee - opening_fee
        leg.book(gross - fill.fee, fill.ts)
        if not closed:
            return None
        exit_price = fill.price
        entry = exit_price - gross / closed if before > 0 else exit_price + gross / closed
        pnl = gross - opening_fee - closing_fee
        profit = ClosedProfit(
            order, closed, entry, exit_price, pnl, opening_fee, closing_fee, desk.leverage(leg), fill.ts
        )
        self.closed.append(profit)
        return profit

    def _funded(self, desk: Desk, payment: FundingPayment) -> None:
        leg = desk.leg(payment.symbol)
        leg.book(payment.amount, payment.ts)
        side = Side.BUY if payment.qty > 0 else Side.SELL
        execution = Execution(
            None, desk.category, leg.symbol, side, abs(payment.qty), payment.mark, -payment.amount, payment.rate, SETTLE_COIN,
            payment.ts, payment.mark, kind="Funding",
        )  # fmt: skip
        self.executions.append(execution)
        self._audience.on_execution(execution)
        self._audience.on_position(leg)
        self._audience.on_wallet()

    # -- telling -----------------------------------------------------------------------------------------------------

    def _finish(self, order: VenueOrder) -> None:
        order.updated = self.now()
        self.open.pop(order.id, None)
        self.tell(order)

    def tell(self, order: VenueOrder) -> None:
        """Say how an order stands, and what hangs on it."""
        self._audience.on_order(order)
        self._tell_position(order)

    def _tell_position(self, order: VenueOrder) -> None:
        if order.category == "linear":
            self._audience.on_position(self.desks["linear"].leg_of(order))
        self._audience.on_wallet()
