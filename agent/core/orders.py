"""Working orders: orders on an exchange's book."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from msgspec import UNSET

from agent.core.decimals import exact
from agent.core.events import Order, OrderStatus, OrderType, Side

_ZERO: Final = Decimal(0)
# Members of enums, read once: a look-up in the class costs as much as an addition of decimals
_BUY: Final = Side.BUY
_SELL: Final = Side.SELL
_MARKET: Final = OrderType.MARKET
_LIMIT: Final = OrderType.LIMIT
_STOP: Final = OrderType.STOP
_TAKE_PROFIT: Final = OrderType.TAKE_PROFIT
_TRAILING_STOP: Final = OrderType.TRAILING_STOP


class WorkingOrder:
    """An order on the book and its state."""

    __slots__ = (
        "arrives_at",
        "best",
        "best_at_open",
        "best_bar",
        "born_inside",
        "cancelling",
        "closes_position",
        "distance",
        "filled",
        "fills",
        "limit",
        "order",
        "seen",
        "share",
        "trails",
        "trigger",
        "triggered",
    )

    def __init__(
        self,
        order: Order,
        arrives_at: int,
        *,
        closes_position: bool = False,
        born_inside: bool = False,
        best: float = 0.0,
        share: Decimal | None = None,
    ) -> None:
        kind, price, trigger = order.type, order.price, order.trigger
        self.order = order
        self.arrives_at = arrives_at  # UTC ms from which it can trade
        self.closes_position = closes_position  # protective: closes the position, whatever its size
        self.born_inside = born_inside  # attached to an entry that filled within the range of the present bar
        self.cancelling = False  # cancel requested, but not yet confirmed by the venue
        self.filled = _ZERO
        self.fills = 0
        self.seen = False  # has met a price: from then on a limit order rests and fills as a maker
        self.triggered = kind is _MARKET
        self.limit = float(price) if price is not None else 0.0
        self.trigger = float(trigger) if trigger is not None else 0.0
        # of a take-profit level: the share of the position that it closes when it is due; None: all of it
        self.share = share
        self.trails = kind is _TRAILING_STOP
        self.distance = _ZERO  # of a trailing stop from the best price
        self.best = best  # most favourable price that it has met
        self.best_at_open = best  # the same before the bar that started at `best_bar` (UTC ms)
        self.best_bar = -1
        if self.trails and order.trail is not UNSET:
            self.distance = order.trail
            self._follow_best()

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
        """True for a limit order, and for a stop entry that has become one."""
        return self.order.type is _LIMIT or (self.triggered and self.order.price is not None)

    @property
    def is_stop(self) -> bool:
        """True for a stop, trailing or not."""
        return self.trails or self.order.type is _STOP

    def marketable(self, price: float) -> bool:
        """Return whether `price` satisfies the limit of a limit order."""
        return price <= self.limit if self.order.side is _BUY else price >= self.limit

    def waits_at(self, price: float) -> bool:
        """Return whether an order that is triggered at `price` has a limit that `price` doesn't satisfy."""
        return self.order.price is not None and not self.marketable(price)

    @property
    def rises(self) -> bool:
        """True if the price has to rise to the trigger."""
        return (self.order.type is _TAKE_PROFIT) != (self.order.side is _BUY)

    def crossed(self, low: float, high: float) -> bool:
        """Return whether the prices from `low` to `high` reach the trigger."""
        return high >= self.trigger if self.rises else low <= self.trigger

    # -- trailing stops -----------------------------------------------------------------------------------

    def improves(self, price: float) -> bool:
        """Return whether a trailing stop would follow `price`."""
        return price > self.best if self.order.side is _SELL else price < self.best

    def follow(self, price: float) -> None:
        """Move a trailing stop's trigger if `price` is the best so far."""
        if self.improves(price):
            self.best = price
            self._follow_best()

    def follow_in_bar(self, price: float, start: int) -> None:
        """Follow a price inside the open bar that started at `start`."""
        if self.best_bar != start:
            self.best_bar, self.best_at_open = start, self.best
        self.follow(price)

    def rewind(self, start: int) -> float:
        """Go back to the best price before the bar that started at `start`; return the best one so far."""
        best = self.best
        if self.best_bar == start:
            self.best = self.best_at_open
            self._follow_best()
        return best

    def _follow_best(self) -> None:
        best = exact(self.best)
        self.trigger = float(best - self.distance if self.order.side is _SELL else best + self.distance)
