"""Bybit's private JSON as typed structs, converted to the port's messages.

REST and stream differ in some fields. Fields:
https://bybit-exchange.github.io/docs/v5/websocket/private/order and its neighbouring pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from agent.core.events import OrderStatus, OrderType, Side
from agent.live.gateway.venue_port import (
    Execution,
    ExecutionKind,
    PrivateMessage,
    VenueOrder,
    VenuePosition,
    VenueRules,
    Wallet,
)
from agent.system.untrusted import JSON_DECODE_ERRORS

_STATUS: Final = {
    "New": OrderStatus.NEW,
    "Created": OrderStatus.NEW,
    "Triggered": OrderStatus.NEW,
    "Untriggered": OrderStatus.UNTRIGGERED,
    "PartiallyFilled": OrderStatus.PARTIALLY_FILLED,
    "Filled": OrderStatus.FILLED,
    "Cancelled": OrderStatus.CANCELLED,
    "PartiallyFilledCanceled": OrderStatus.CANCELLED,
    "Deactivated": OrderStatus.CANCELLED,
    "Rejected": OrderStatus.REJECTED,
}
_KINDS: Final = {
    "Trade": ExecutionKind.TRADE,
    "BlockTrade": ExecutionKind.TRADE,
    "Funding": ExecutionKind.FUNDING,
    "BustTrade": ExecutionKind.LIQUIDATION,
    "AdlTrade": ExecutionKind.LIQUIDATION,
}


class _Json(msgspec.Struct, rename="camel"):
    """Base of the venue's structs. Numbers are strings; an empty string is a missing number."""


class OrderJson(_Json):
    """An order; `message` converts it."""

    category: str = ""
    order_id: str = ""
    order_link_id: str = ""
    symbol: str = ""
    side: str = ""
    order_type: str = ""
    order_status: str = ""
    qty: str = ""
    cum_exec_qty: str = ""
    price: str = ""
    trigger_price: str = ""
    reduce_only: bool = False
    reject_reason: str = ""
    created_time: str = ""
    updated_time: str = ""
    create_type: str = ""
    stop_order_type: str = ""

    def message(self) -> VenueOrder:
        """Convert it. An order that was rejected after a partial fill counts as cancelled."""
        filled, trigger = _number(self.cum_exec_qty), _number(self.trigger_price)
        status = _STATUS.get(self.order_status, OrderStatus.NEW)
        if status is OrderStatus.REJECTED and filled:
            status = OrderStatus.CANCELLED
        kind = OrderType.LIMIT if self.order_type == "Limit" else OrderType.MARKET
        return VenueOrder(
            self.order_id,
            self.order_link_id,
            self.symbol,
            _side(self.side),
            OrderType.STOP if trigger else kind,
            status,
            _number(self.qty),
            filled,
            price=_number(self.price) if kind is OrderType.LIMIT else None,
            trigger=trigger or None,
            reduce_only=self.reduce_only,
            reason="" if self.reject_reason == "EC_NoError" else self.reject_reason,
            created=_time(self.created_time),
            updated=_time(self.updated_time),
            trailing=_is_trailing(self.create_type, self.stop_order_type),
        )


class ExecutionJson(_Json):
    """An execution; `message` converts it."""

    category: str = ""
    exec_id: str = ""
    order_id: str = ""
    order_link_id: str = ""
    symbol: str = ""
    side: str = ""
    exec_qty: str = ""
    exec_price: str = ""
    exec_fee: str = ""
    fee_currency: str = ""
    fee_rate: str = ""
    exec_type: str = ""
    exec_time: str = ""
    is_maker: bool = False
    create_type: str = ""
    stop_order_type: str = ""

    def message(self) -> Execution:
        """Convert it. Derivatives state no fee currency: it is the settlement coin."""
        if not self.exec_id or not self.exec_time:
            raise ValueError("an execution without an id or a time")
        return Execution(
            self.exec_id,
            self.order_id,
            self.order_link_id,
            self.symbol,
            _time(self.exec_time),
            _side(self.side),
            _number(self.exec_qty),
            _number(self.exec_price),
            _number(self.exec_fee),
            self.fee_currency,
            self.is_maker,
            _KINDS.get(self.exec_type, ExecutionKind.UNKNOWN),
            _number(self.fee_rate),
            self.exec_type,
            _is_trailing(self.create_type, self.stop_order_type),
        )


class PositionJson(_Json):
    """A position. The stream's `entryPrice` is `avgPrice` in REST responses."""

    category: str = ""
    symbol: str = ""
    side: str = ""
    size: str = ""
    avg_price: str = ""
    entry_price: str = ""
    trailing_stop: str = ""
    position_idx: int = 0

    def message(self) -> VenuePosition:
        """Convert it."""
        qty = _number(self.size) if self.side == "Buy" else -_number(self.size)
        entry, trail = _number(self.avg_price or self.entry_price), _number(self.trailing_stop)
        return VenuePosition(self.symbol, qty, entry, trail)


class _PriceFilterJson(_Json):
    tick_size: str = ""


class _LotSizeFilterJson(_Json):
    qty_step: str = ""
    base_precision: str = ""  # on spot
    min_order_qty: str = ""
    min_notional_value: str = ""
    min_order_amt: str = ""  # on spot


class InstrumentJson(_Json):
    """An instrument with its trading rules. Steps of 0 are refused."""

    symbol: str
    price_filter: _PriceFilterJson
    lot_size_filter: _LotSizeFilterJson

    def message(self) -> tuple[str, VenueRules]:
        """Return symbol and rules."""
        lot = self.lot_size_filter
        tick, step = _number(self.price_filter.tick_size), _number(lot.qty_step or lot.base_precision)
        least, value = _number(lot.min_order_qty), _number(lot.min_notional_value or lot.min_order_amt)
        if tick <= 0 or step <= 0 or least < 0 or value < 0:
            minima = f"the minima {least} and {value} at least 0"
            raise ValueError(f"{self.symbol}: tick {tick} and step {step} must be above 0, {minima}")
        return self.symbol, VenueRules(tick, step, least, value)


class _CoinJson(_Json):
    coin: str = ""
    wallet_balance: str = ""


class WalletJson(_Json):
    """A unified account."""

    coin: list[_CoinJson] = []

    def message(self) -> Wallet:
        """Convert it."""
        return Wallet({one.coin: _number(one.wallet_balance) for one in self.coin})


_SHAPES: Final[Mapping[str, type[OrderJson | ExecutionJson | PositionJson | WalletJson]]] = {
    "order": OrderJson,
    "execution": ExecutionJson,
    "position": PositionJson,
    "wallet": WalletJson,
}
TOPICS: Final = tuple(_SHAPES)
"""Topics of the private stream that the gateway subscribes to."""

_DECODERS: Final[dict[str, Callable[[bytes | msgspec.Raw], Any]]] = {
    topic: msgspec.json.Decoder(list[shape]).decode  # type: ignore[valid-type]
    for topic, shape in _SHAPES.items()
}


def read_private(topic: str, data: bytes | msgspec.Raw, category: str) -> list[PrivateMessage]:
    """Decode the messages of one frame that concern `category`.

    Raises ValueError if they don't match the topic.
    """
    decode = _DECODERS.get(topic)
    if decode is None:
        raise ValueError(f"topic {topic!r} was not subscribed to")
    try:
        return [item.message() for item in decode(data) if getattr(item, "category", category) == category]
    except JSON_DECODE_ERRORS as error:
        raise ValueError(str(error)) from error


def read_list(kind: type[Any], items: Any, category: str) -> list[Any]:
    """Convert the `list` of a REST response. Raises ValueError if its items are not of `kind`."""
    try:
        found: list[Any] = msgspec.convert(items, list[kind])  # type: ignore[valid-type]
        return [item.message() for item in found if getattr(item, "category", "") in ("", category)]
    except JSON_DECODE_ERRORS as error:
        raise ValueError(str(error)) from error


def _is_trailing(create_type: str, stop_order_type: str) -> bool:
    """Return whether the trailing stop of a position has made an order."""
    return create_type == "CreateByTrailingStop" or stop_order_type == "TrailingStop"


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text or "0")
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{text!r} is not a finite number")
    return number


def _time(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"{text!r} is not a time")
    return int(text or "0")


def _side(text: str) -> Side:
    if text not in ("Buy", "Sell"):
        raise ValueError(f"{text!r} is not a side")
    return Side.BUY if text == "Buy" else Side.SELL
