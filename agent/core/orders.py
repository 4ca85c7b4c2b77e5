"""Working orders: what the exchange holds between an order's arrival and its end."""

from __future__ import annotations

from decimal import Decimal

from agent.core.events import Order, OrderStatus, OrderType, Side


class WorkingOrder:
    """One order on the book and how far it has come."""

    __slots__ = (
        "arrives_at",
        "born_inside",
        "cancelling",
        "closes_position",
        "filled",
        "fills",
        "limit",
        "order",
        "seen",
        "trigger",
        "triggered",
    )

    def __init__(
        self, order: Order, arrives_at: int, *, closes_position: bool = False, born_inside: bool = False
    ) -> None:
        self.order = order
        self.arrives_at = arrives_at  # UTC ms from which the market can meet it
        # a protective order: takes the whole position, whatever its size then
        self.closes_position = closes_position
        self.born_inside = born_inside  # attached to an entry that was filled within the present bar's range
        self.cancelling = False  # asked to be taken back, but a venue has yet to say that it is
        self.filled = Decimal(0)
        self.fills = 0
        self.seen = False  # has met a price: from then on a limit order rests, and fills as a maker
        self.triggered = order.type is OrderType.MARKET
        self.limit = float(order.price) if order.price is not None else 0.0
        self.trigger = float(order.trigger) if order.trigger is not None else 0.0

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet filled."""
        return self.order.qty - self.filled

    @property
    def status(self) -> OrderStatus:
        """Where a working order is in its life."""
        if self.filled:
            return OrderStatus.FILLED if self.remaining <= 0 else OrderStatus.PARTIALLY_FILLED
        return OrderStatus.NEW if self.is_limit or self.triggered else OrderStatus.UNTRIGGERED

    @property
    def is_limit(self) -> bool:
        """Rests at its own price."""
        return self.order.type is OrderType.LIMIT

    def marketable(self, price: float) -> bool:
        """A limit order that `price` satisfies."""
        return price <= self.limit if self.order.side is Side.BUY else price >= self.limit

    def crossed(self, low: float, high: float) -> bool:
        """An untriggered order whose trigger lies on the far side of a range of prices."""
        rises = (self.order.type is OrderType.STOP) == (self.order.side is Side.BUY)
        return high >= self.trigger if rises else low <= self.trigger
