"""Orders, positions and ledger of one category: the core's paper exchange and portfolio.

In hedge mode a symbol has a long and a short position. The paper exchange treats these as separate
instruments named BTCUSDT:1 and BTCUSDT:2.
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
from agent.sandbox.listed_instruments import Instruments
from agent.sandbox.replay_market import Quote
from agent.sandbox.sandbox_order import SandboxOrder

_ZERO = Decimal(0)


@dataclass(slots=True)
class Leg:
    """A position at Bybit: `index` is positionIdx (0 one-way, 1 long, 2 short), `held` the ledger's
    position.
    """

    symbol: str
    index: int
    held: Position
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None
    trailing: Decimal | None = None  # distance
    active: Decimal | None = None  # price from which on the trailing stop follows
    best: float = 0.0  # most favourable price since the trailing stop was set
    opening_fees: Decimal = _ZERO
    realised: Decimal = _ZERO  # profit, fees and funding since the position was opened
    realised_ever: Decimal = _ZERO
    created: int = 0
    updated: int = 0

    @property
    def key(self) -> str:
        """Name of the position's instrument in the paper exchange."""
        return self.held.symbol

    @property
    def closing_side(self) -> Side:
        """Side of an order that reduces the position."""
        return Side.SELL if self.held.qty > 0 else Side.BUY

    @property
    def opening_side(self) -> Side:
        """Side of an order that adds to the position."""
        return Side.BUY if self.held.qty > 0 else Side.SELL

    def reducible(self, side: Side) -> Decimal:
        """Return the quantity that an order of this side can close."""
        return abs(self.held.qty) if self.held.qty * side.sign < 0 else _ZERO

    def add_realised(self, amount: Decimal, now: int) -> None:
        """Add profit, a fee or funding to the realised amounts."""
        self.realised += amount
        self.realised_ever += amount
        self.updated = now


class CategoryBook:
    """Paper exchange and portfolio of one category. `emit` receives the reports of the paper exchange."""

    def __init__(
        self,
        category: str,
        instruments: Instruments,
        balance: Decimal,
        emit: Callable[[CategoryBook, Report], None],
    ) -> None:
        self.category = category
        indices = (0, 1, 2) if category == "linear" else (0,)
        rules = instruments.by_category[category]
        keys = {(symbol, i): f"{symbol}:{i}" if i else symbol for symbol in rules for i in indices}
        self.rules: dict[str, Instrument] = {
            key: rules[symbol].replace(symbol=key) for (symbol, _), key in keys.items()
        }
        self.portfolio = Portfolio(balance, self.rules)
        self.legs = {
            symbol: tuple(Leg(symbol, i, self.portfolio.positions[keys[symbol, i]]) for i in indices)
            for symbol in rules
        }
        self.exchange = PaperExchange(
            instruments.configs[category],
            self.rules,
            self.portfolio,
            lambda event: emit(self, event),
            lambda: str(uuid.uuid4()),
        )
        self._by_key = {leg.key: leg for legs in self.legs.values() for leg in legs}
        for symbol, legs in self.legs.items():
            for leg in legs:
                leg.held.mark = instruments.last_price(symbol)

    def leg(self, key: str) -> Leg:
        """Return the position with this instrument name in the paper exchange."""
        return self._by_key[key]

    def leg_of(self, order: SandboxOrder) -> Leg:
        return self.legs[order.symbol][order.index]

    def open_legs(self) -> list[Leg]:
        """Return the positions whose quantity is not zero."""
        return [self._by_key[position.symbol] for position in self.portfolio.open]

    def leverage(self, leg: Leg) -> Decimal:
        return self.exchange.margin.leverage[leg.key]

    def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        """Set the leverage of all positions in the symbol."""
        for leg in self.legs[symbol]:
            self.exchange.margin.leverage[leg.key] = leverage

    def working(self, order: SandboxOrder) -> WorkingOrder | None:
        """Return the paper exchange's entry of an order, or None if the order is not in it."""
        book = self.exchange.books[self.leg_of(order).key]
        return next((working for working in book if working.order.id == order.id), None)

    def match(self, quote: Quote, now: int) -> None:
        """Match all orders and positions of a symbol against its last price."""
        price = quote.last
        volume = quote.series.running(quote.index, max(quote.done, 1)).volume
        start = int(quote.series.start[quote.index])
        for leg in self.legs[quote.series.symbol]:
            leg.held.mark = price
            if self.exchange.books[leg.key] or leg.held.qty:
                tick = Kline(
                    leg.key,
                    quote.series.interval,
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

    def pay_funding(self, symbol: str, stamp: int, now: int, rate: Decimal) -> None:
        """Apply funding of the time `stamp` at `rate` to the positions in the symbol (UTC ms)."""
        for leg in self.legs[symbol]:
            self.exchange.on_funding(Funding(leg.key, stamp, now, float(rate)))
