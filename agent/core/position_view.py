"""A symbol's position as strategies see it."""

from __future__ import annotations

from decimal import Decimal
from math import nan
from typing import TYPE_CHECKING, Protocol

from agent.core.events import OrderType
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Position


class SymbolState(Protocol):
    """What a view reads of a symbol's state."""

    book: list[WorkingOrder]
    position: Position


class EventTime(Protocol):
    """What a view reads of the market: the time of the event being handled (UTC ms)."""

    now: int


class PositionView(float):
    """The signed quantity held, as a float, and what is known of the position.

    The number is the quantity when the view was made; the attributes are computed when they are read, and
    describe the position of that moment. Prices and profits are floats in quote currency.
    """

    __slots__ = ("_market", "_state")

    _market: EventTime
    _state: SymbolState

    if TYPE_CHECKING:  # a view equals any number of the same value, which type checkers doubt otherwise

        def __eq__(self, other: object) -> bool: ...

    @classmethod
    def of(cls, state: SymbolState, market: EventTime) -> PositionView:
        """Return the view of the position of `state`."""
        view = cls(state.position.size)
        view._state, view._market = state, market
        return view

    @property
    def qty(self) -> Decimal:
        """The exact signed quantity, in base coin or shares."""
        return self._state.position.qty

    @property
    def entry_price(self) -> float:
        """Average entry price; NaN if flat."""
        return float(self._state.position.entry_price) if self._state.position.qty else nan

    @property
    def opened_at(self) -> int:
        """UTC ms at which this position was opened or turned around; 0 if flat."""
        return self._state.position.entry_ts if self._state.position.qty else 0

    @property
    def age(self) -> int:
        """Time since `opened_at` in ms; 0 if flat."""
        return max(0, self._market.now - self._state.position.entry_ts) if self._state.position.qty else 0

    @property
    def open_profit(self) -> float:
        """Profit at the last price, in account currency, before fees and funding; 0 if flat."""
        return float(self._state.position.unrealised) if self._state.position.qty else 0.0

    @property
    def stop(self) -> float | None:
        """Trigger price of the working stop; None without one."""
        prices = self._triggers(OrderType.STOP)
        return prices[-1] if prices else None

    @property
    def trail(self) -> float | None:
        """Price at which the working trailing stop would be triggered now; None without one.

        At a venue, which moves it itself, this is computed from the bars since.
        """
        prices = self._triggers(OrderType.TRAILING_STOP)
        return prices[-1] if prices else None

    @property
    def take_profits(self) -> tuple[float, ...]:
        """Trigger prices of the working take-profits, nearest first; empty without any."""
        return tuple(sorted(self._triggers(OrderType.TAKE_PROFIT), reverse=self._state.position.size < 0))

    def _triggers(self, kind: OrderType) -> tuple[float, ...]:
        """Return the triggers of the position's working protection of one kind, oldest first."""
        if not self._state.position.qty:
            return ()
        return tuple(
            working.trigger
            for working in self._state.book
            if working.closes_position and not working.cancelling and working.order.type is kind
        )
