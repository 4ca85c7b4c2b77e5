"""What is asked of Bybit v5, as it wants to hear it: the bodies of requests."""

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
    """The body of order/create. Market sizes are in base coin; stops and take-profits are conditional market orders.

    A trigger is by last price, as the paper exchange's, and direction 1 is a rise to it.
    """
    limit = order.type is OrderType.LIMIT
    body: dict[str, Any] = {
        "symbol": order.symbol,
        "side": "Buy" if order.side is Side.BUY else "Sell",
        "orderType": "Limit" if limit else "Market",
        "qty": text(order.qty),
        "orderLinkId": order.id,
    }
    if limit:
        body |= {"price": text(order.price), "timeInForce": _TIF[order.tif]}
    if category == "spot":
        body |= {} if limit else {"marketUnit": "baseCoin"}
    else:
        body |= {"positionIdx": 0, "reduceOnly": order.reduce_only}
    if order.trigger is not None:
        rises = (order.type is OrderType.STOP) == (order.side is Side.BUY)
        body |= {"triggerPrice": text(order.trigger)}
        body |= (
            {"orderFilter": "StopOrder"}
            if category == "spot"
            else {
                "triggerDirection": 1 if rises else 2,
                "triggerBy": "LastPrice",
                "closeOnTrigger": order.reduce_only,
            }
        )
    return body


def named(order: OrderRef) -> dict[str, str]:
    """How a request names an order: by our id, or by the venue's where it has none of ours."""
    return {"symbol": order.symbol} | (
        {"orderLinkId": order.client_id} if order.client_id else {"orderId": order.id}
    )


def text(number: Decimal | None) -> str | None:
    """Without an exponent, which the venue does not take; None is left out."""
    return None if number is None else format(number, "f")
