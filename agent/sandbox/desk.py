"""One category's side of the account: the core's paper exchange and ledger, and the positions that the venue shows of it.

In hedge mode a symbol has a long and a short position. To the paper exchange they are instruments of their own: BTCUSDT:1, BTCUSDT:2.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from agent.core.events import Funding, Kline, Side
from agent.core.exchange import Report
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio, Position
from agent.sandbox.listing import Listing
from agent.sandbox.market import Quote
from agent.sandbox.orders import VenueOrder

_ZERO = Decimal(0)


@dataclass(slots=True)
class Leg:
    """A position as the venue shows it: `index` is Bybit's positionIdx (0 one-way, 1 long, 2 short), `held` the ledger's entry."""

    symbol: str
    index: int
    held: Position
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None
    trailing: Decimal | None = None  # distance
    best: float = 0.0  # price since the trailing stop was set
    opening_fees: Decimal = _ZERO
    realised: Decimal = _ZERO  # since it was opened: profit, fees and funding
    realised_ever: Decimal = _ZERO
    created: int = 0
    updated: int = 0

    @property
    def key(self) -> str:
        """Its name in the paper exchange."""
        return self.held.symbol

    @property
    def closing_side(self) -> Side:
        """The side of an order that reduces it."""
        return Side.SELL if self.held.qty > 0 else Side.BUY

    @property
    def opening_side(self) -> Side:
        """The side of an order that adds to it."""
        return Side.BUY if self.held.qty > 0 else Side.SELL

    def reducible(self, side: Side) -> Decimal:
        """How much an order of this side can close."""
        return abs(self.held.qty) if self.held.qty * side.sign < 0 else _ZERO

    def book(self, amount: Decimal, now: int) -> None:
        """Add profit, a fee or funding to what was realised."""
        self.realised += amount
        self.realised_ever += amount
        self.updated = now


class Desk:
    """Paper exchange and portfolio of one category. `emit` receives what the paper exchange reports."""

    def __init__(
        self,
        category: str,
        listing: Listing,
        balance: Decimal,
        emit: Callable[[Desk, Report], None],
    ) -> None:
        self.category = category
        indices = (0, 1, 2) if category == "linear" else (0,)
        rules = listing.instruments[category]
        keys = {(symbol, i): f"{symbol}:{i}" if i else symbol for symbol in rules for i in indices}
        self.rules: dict[str, Instrument] = {
            key: rules[symbol]._replace(symbol=key) for (symbol, _), key in keys.items()
        }
        self.portfolio = Portfolio(balance, self.rules)
        self.legs = {
            symbol: tuple(Leg(symbol, i, self.portfolio.positions[keys[symbol, i]]) for i in indices)
            for symbol in rules
        }
        self.exchange = PaperExchange(
            listing.configs[category],
            self.rules,
            self.portfolio,
            lambda event: emit(self, event),
            lambda: str(uuid.uuid4()),
        )
        self._by_key = {leg.key: leg for legs in self.legs.values() for leg in legs}
        for symbol, legs in self.legs.items():
            for leg in legs:
                leg.held.mark = listing.last(symbol)

    def leg(self, key: str) -> Leg:
        """By its name in the paper exchange."""
        return self._by_key[key]

    def leg_of(self, order: VenueOrder) -> Leg:
        """The position that an order changes."""
        return self.legs[order.symbol][order.index]

    def open_legs(self) -> list[Leg]:
        """The positions that hold something."""
        return [self._by_key[position.symbol] for position in self.portfolio.open]

    def leverage(self, leg: Leg) -> Decimal:
        """What the position may be a multiple of its margin."""
        return self.exchange.margin.leverage[leg.key]

    def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        """For all positions in the symbol."""
        for leg in self.legs[symbol]:
            self.exchange.margin.leverage[leg.key] = leverage

    def working(self, order: VenueOrder) -> WorkingOrder | None:
        """The paper exchange's own entry of an order."""
        book = self.exchange.books[self.leg_of(order).key]
        return next((working for working in book if working.order.id == order.id), None)

    def match(self, quote: Quote, now: int) -> None:
        """All orders and positions in a symbol meet its last price."""
        price = quote.last
        volume = quote.tape.running(quote.index, max(quote.done, 1)).volume
        start = int(quote.tape.start[quote.index])
        for leg in self.legs[quote.tape.symbol]:
            leg.held.mark = price
            if self.exchange.books[leg.key] or leg.held.qty:
                tick = Kline(
                    leg.key,
                    quote.tape.interval,
                    start,
                    now,
                    now,
                    price,
                    price,
                    price,
                    price,
                    volume,
                    confirm=False,
                )
                self.exchange.on_price(tick)
                if self.category == "linear":
                    self.exchange.check_margin(tick)

    def fund(self, symbol: str, stamp: int, now: int, rate: Decimal) -> None:
        """Pay funding on what is held."""
        for leg in self.legs[symbol]:
            self.exchange.on_funding(Funding(leg.key, stamp, now, float(rate)))
