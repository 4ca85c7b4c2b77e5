"""Bodies of Bybit v5 order requests (https://bybit-exchange.github.io/docs/v5/order/create-order)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from agent.core.events import Order, OrderType, Side, TimeInForce
from agent.live.gateway.venue_port import OrderRef

_TIF: Final = {
    TimeInForce.GTC: "GTC",
    TimeInForce.IOC: "IOC",
    TimeInForce.FOK: "FOK",
    TimeInForce.POST_ONLY: "PostOnly",
}


def order_request(order: Order, category: str) -> dict[str, Any]:
    """Return the body of order/create.

    Market sizes are in base coin; stops and take-profits are conditional market orders, or limit orders if
    they have a price. Triggers use the last price, as on the paper exchange. `triggerDirection` 1 is a rise
    to the trigger, 2 a fall.
    """
    limit = order.price is not None
    body: dict[str, Any] = {
        "symbol": order.symbol,
        "side": "Buy" if order.side is Side.BUY else "Sell",
        "orderType": "Limit" if limit else "Market",
        "qty": decimal_text(order.qty),
        "orderLinkId": order.id,
    }
    if limit:
        body |= {"price": decimal_text(order.price), "timeInForce": _TIF[order.tif]}
    if category != "spot":
        body |= {"positionIdx": 0, "reduceOnly": order.reduce_only}
    elif not limit:
        body |= {"marketUnit": "baseCoin"}
    if order.trigger is not None:
        body |= {"triggerPrice": decimal_text(order.trigger)}
        if category == "spot":
            body |= {"orderFilter": "StopOrder"}
        else:
            rises = (order.type is OrderType.STOP) == (order.side is Side.BUY)
            direction = 1 if rises else 2
            body |= {
                "triggerDirection": direction,
                "triggerBy": "LastPrice",
                "closeOnTrigger": order.reduce_only,
            }
    return body


def order_name(order: OrderRef) -> dict[str, str]:
    """Return the fields that name an order in a request: our id, or the venue's if it has none of ours."""
    if order.client_id:
        return {"symbol": order.symbol, "orderLinkId": order.client_id}
    return {"symbol": order.symbol, "orderId": order.id}


def decimal_text(number: Decimal | None) -> str | None:
    """Format a number without an exponent, which the venue does not accept; None stays None."""
    return None if number is None else format(number, "f")
