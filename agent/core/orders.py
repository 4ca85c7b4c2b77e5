"""Working orders: orders on an exchange's book."""

from __future__ import annotations

from decimal import Decimal

from agent.core.events import Order, OrderStatus, OrderType, Side


class WorkingOrder:
    """An order on the book and its state."""

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
        self.arrives_at = arrives_at  # UTC ms from which it can trade
        self.closes_position = closes_position  # protective: closes the whole position, whatever its size
        self.born_inside = born_inside  # attached to an entry that filled within the range of the present bar
        self.cancelling = False  # cancel requested, but not yet confirmed by the venue
        self.filled = Decimal(0)
        self.fills = 0
        self.seen = False  # has met a price: from then on a limit order rests and fills as a maker
        self.triggered = order.type is OrderType.MARKET
        self.limit = float(order.price) if order.price is not None else 0.0
        self.trigger = float(order.trigger) if order.trigger is not None else 0.0

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet filled."""
        return self.order.qty - self.filled

    @property
    def status(self) -> OrderStatus:
        """Status that the fills so far imply."""
        if self.filled:
            return OrderStatus.FILLED if self.remaining <= 0 else OrderStatus.PARTIALLY_FILLED
        return OrderStatus.NEW if self.is_limit or self.triggered else OrderStatus.UNTRIGGERED

    @property
    def is_limit(self) -> bool:
        """True for a limit order."""
        return self.order.type is OrderType.LIMIT

    def marketable(self, price: float) -> bool:
        """Return whether `price` satisfies the limit of a limit order."""
        return price <= self.limit if self.order.side is Side.BUY else price >= self.limit

    def crossed(self, low: float, high: float) -> bool:
        """Return whether the prices from `low` to `high` reach the trigger."""
        rises = (self.order.type is OrderType.STOP) == (self.order.side is Side.BUY)
        return high >= self.trigger if rises else low <= self.trigger
