"""Orders as the venue stores them, and the checks that a request to place an order must pass."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from typing import Final

from agent.core.events import Order, OrderType, Side, TimeInForce
from agent.core.instruments import Instrument
from agent.sandbox.bybit_errors import BybitError, error_by_category, parameter_error
from agent.sandbox.json_values import Params
from agent.sandbox.listed_instruments import PRICE_BAND

OPEN: Final = frozenset({"New", "PartiallyFilled", "Untriggered", "Triggered"})
_TIME_IN_FORCE: Final = {
    "GTC": TimeInForce.GTC,
    "IOC": TimeInForce.IOC,
    "FOK": TimeInForce.FOK,
    "PostOnly": TimeInForce.POST_ONLY,
}
_TRIGGER_BY: Final = ("LastPrice", "IndexPrice", "MarkPrice")
_LINK: Final = re.compile(r"[A-Za-z0-9_-]{1,36}")


@dataclass(slots=True)
class SandboxOrder:
    """All fields of an order at the venue. Prices and quantities are Decimal, times UTC ms."""

    category: str
    symbol: str
    side: Side
    type: str  # Market or Limit
    qty: Decimal  # base coin
    created: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    link: str = ""
    index: int = 0  # positionIdx
    price: Decimal | None = None
    quote_qty: Decimal | None = None  # quote quantity of a spot market order by value
    tif: str = "GTC"
    reduce_only: bool = False
    close_on_trigger: bool = False
    trigger: Decimal | None = None
    trigger_rises: bool = False
    trigger_by: str = ""
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None
    kind: str = ""  # stopOrderType: Stop, TakeProfit, StopLoss, TrailingStop …
    create_type: str = "CreateByUser"
    whole_position: bool = False
    status: str = "New"
    cancel_type: str = "UNKNOWN"
    reject_reason: str = "EC_NoError"
    updated: int = 0
    last_on_created: Decimal = Decimal(0)
    filled: Decimal = Decimal(0)
    value: Decimal = Decimal(0)
    fees: dict[str, Decimal] = field(default_factory=dict)
    closed_pnl: Decimal = Decimal(0)

    @property
    def open(self) -> bool:
        """Whether the order can still be filled, amended or cancelled."""
        return self.status in OPEN

    @property
    def remaining(self) -> Decimal:
        """Quantity in base coin that can still be filled."""
        return self.qty - self.filled if self.open else Decimal(0)

    @property
    def average(self) -> Decimal | None:
        return self.value / self.filled if self.filled else None

    @property
    def conditional(self) -> bool:
        """Whether the order is waiting for its trigger."""
        return self.status == "Untriggered"

    def for_matching(self, key: str, now: int) -> Order:
        """Return the order for the paper exchange. A market order becomes immediate-or-cancel."""
        market = self.type == "Market"
        return Order(
            self.id,
            key,
            now,
            self.side,
            OrderType.MARKET if market else OrderType.LIMIT,
            self.qty,
            price=None if market else self.price,
            tif=TimeInForce.IOC if market and self.tif == "GTC" else _TIME_IN_FORCE[self.tif],
            reduce_only=self.reduce_only,
        )


def parse_order(
    params: Params, category: str, rules: Instrument, last: Decimal, taker: Decimal, now: int
) -> SandboxOrder:
    """Build an order from a request and validate it.

    `last` is the last price, `taker` the price that a taker gets, and `now` the time in UTC ms. Raises
    BybitError with the venue's code and text.
    """
    spot = category == "spot"
    side = Side(params.text("side", among=("Buy", "Sell")).upper())
    kind = params.text("orderType", among=("Market", "Limit"))
    link = params.text("orderLinkId", "")
    if link and not _LINK.fullmatch(link):
        raise parameter_error("OrderLinkedID invalid: at most 36 of A-Z a-z 0-9 _ -")
    tif = params.text("timeInForce", "GTC" if kind == "Limit" else "IOC", among=_TIME_IN_FORCE)
    qty = params.decimal("qty")
    if qty is None:
        raise parameter_error("params error: qty is required")
    order = SandboxOrder(
        category,
        rules.symbol,
        side,
        kind,
        qty,
        now,
        link=link,
        index=params.integer("positionIdx", 0),
        tif=tif,
        reduce_only=(params.flag("reduceOnly") or params.flag("closeOnTrigger")) and not spot,
        close_on_trigger=params.flag("closeOnTrigger"),
        updated=now,
        last_on_created=last,
    )
    order.price = params.positive("price") if kind == "Limit" else None
    if kind == "Limit" and order.price is None:
        raise parameter_error("price invalid: a limit order needs one")
    _read_trigger(order, params, last)
    if (
        spot
        and kind == "Market"
        and params.text("marketUnit", "quoteCoin" if side is Side.BUY else "baseCoin") == "quoteCoin"
    ):
        order.quote_qty = qty
        order.qty = rules.round_qty(qty / taker)
    if not spot:
        order.take_profit, order.stop_loss = params.positive("takeProfit"), params.positive("stopLoss")
        check_protection(rules, side, order.price or last, order.take_profit, order.stop_loss)
    elif params.positive("takeProfit") or params.positive("stopLoss"):
        raise parameter_error(
            "takeProfit and stopLoss of a spot order are not supported here: place a conditional order"
        )
    check_size(order, rules, last)
    if order.price is not None:
        check_price(category, rules, side, order.price, order.trigger or last)
    return order


def _read_trigger(order: SandboxOrder, params: Params, last: Decimal) -> None:
    trigger = params.positive("triggerPrice")
    if trigger is None:
        return
    if order.category == "spot":
        order.trigger_rises = trigger > last
    else:
        direction = params.integer("triggerDirection", 0)
        if direction not in (1, 2):
            raise parameter_error("triggerDirection invalid: 1 (rises to) or 2 (falls to)")
        order.trigger_rises = direction == 1
        if order.trigger_rises and trigger <= last:
            raise BybitError(110092, f"expect Rising, but trigger_price[{trigger}] <= current[{last}]")
        if not order.trigger_rises and trigger >= last:
            raise BybitError(110093, f"expect Falling, but trigger_price[{trigger}] >= current[{last}]")
    order.trigger = trigger
    order.trigger_by = params.text("triggerBy", "LastPrice", among=_TRIGGER_BY)
    order.kind = (
        "tpslOrder" if order.category == "spot" and params.text("orderFilter", "") == "tpslOrder" else "Stop"
    )
    order.status = "Untriggered"


def check_size(order: SandboxOrder, rules: Instrument, last: Decimal) -> None:
    """Check lot, minimum quantity and value. Reduce-only quantity 0 means the whole position."""
    category, qty = order.category, order.qty
    if order.reduce_only and not qty:
        return
    if qty <= 0 or qty % rules.qty_step:
        raise error_by_category(
            category, linear=(10001, "Qty invalid"), spot=(170137, "Order quantity has too many decimals.")
        )
    if order.reduce_only:
        return
    value = qty * (order.price or order.trigger or last)
    if value < rules.min_notional:
        minimum = f"{rules.min_notional}USDT"
        raise error_by_category(
            category,
            linear=(110094, f"Order does not meet minimum order value {minimum}"),
            spot=(170140, f"Order value exceeded lower limit {minimum}."),
        )
    if qty < rules.min_qty:
        raise error_by_category(
            category,
            linear=(10001, "The number of contracts is below the minimum limit allowed"),
            spot=(170136, "Order quantity exceeded lower limit."),
        )
    if value > 100_000_000:
        raise error_by_category(
            category,
            linear=(10001, "The number of contracts exceeds maximum limit allowed: too large"),
            spot=(170124, "Order amount too large."),
        )


def check_price(category: str, rules: Instrument, side: Side, price: Decimal, last: Decimal) -> None:
    """Check that a limit price is on the tick and not too far beyond the last price."""
    if price % rules.tick_size:
        raise error_by_category(
            category,
            linear=(10001, f"params error: price {price} invalid"),
            spot=(170134, "Order price has too many decimals."),
        )
    if side is Side.BUY and price > last * (1 + PRICE_BAND):
        highest = (last * (1 + PRICE_BAND)).quantize(rules.tick_size, ROUND_DOWN)
        raise error_by_category(
            category,
            linear=(110003, f"Order price is out of permissible range: at most {highest}"),
            spot=(170193, f"Buy order price cannot be higher than {highest}."),
        )
    if side is Side.SELL and price < last * (1 - PRICE_BAND):
        lowest = (last * (1 - PRICE_BAND)).quantize(rules.tick_size, ROUND_DOWN)
        raise error_by_category(
            category,
            linear=(110003, f"Order price is out of permissible range: at least {lowest}"),
            spot=(170194, f"Sell order price cannot be lower than {lowest}."),
        )


def check_protection(
    rules: Instrument, side: Side, base: Decimal, take_profit: Decimal | None, stop_loss: Decimal | None
) -> None:
    """Check that take-profit and stop-loss are on the right sides of `base` and on the tick."""
    what = "Buy" if side is Side.BUY else "Sell"
    for name, price, sign in (("TakeProfit", take_profit, side.sign), ("StopLoss", stop_loss, -side.sign)):
        if price is None:
            continue
        if price % rules.tick_size:
            raise parameter_error(f"params error: {name} {price} invalid")
        if (price - base) * sign <= 0:
            bound = f"{'higher' if sign > 0 else 'lower'} than base_price:{base}"
            raise parameter_error(f"{name}:{price} set for {what} position should be {bound}")
