"""Netting within an account: opposite market orders of two sleeves meet at the mark instead of the market.

Both get a fill of kind INTERNAL without fee, spread or slippage for the smaller quantity; the remainder of
the larger order goes to the market. A market order can cross until it reaches the market, that is for the
latency after its decision on paper, and during the event on which it is decided at a venue. Orders cross in
the order of the sleeves, then in that of their submission.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from agent.core.events import Side
from agent.core.orders import WorkingOrder
from agent.core.paper import PaperExchange
from agent.core.portfolio import Position
from agent.core.sleeve_venue import SleeveExchange

_ZERO: Final = Decimal(0)

CrossingExchange = PaperExchange | SleeveExchange
"""An exchange whose orders can be crossed with those of other sleeves."""

_Candidate = tuple[str, CrossingExchange, WorkingOrder]


class CrossTotals:
    """What has been crossed: number, value at the marks, and the fees that the market would have charged."""

    def __init__(self) -> None:
        self.count = 0
        self.value = _ZERO
        self.fees_saved = _ZERO


class InternalCrosses:
    """Crosses the new orders of the sleeves."""

    def __init__(self) -> None:
        self.totals = CrossTotals()
        self.symbols: set[str] = set()  # with new market orders

    def cross(
        self, exchanges: Mapping[str, CrossingExchange], positions: Mapping[str, Position], now: int
    ) -> list[str]:
        """Cross what can be crossed at `now` (UTC ms); return the names of the sleeves that were filled.

        `exchanges` are by sleeve; `positions` have the marks.
        """
        filled: dict[str, None] = {}
        for symbol in sorted(self.symbols):
            orders: list[_Candidate] = [
                (name, exchange, working)
                for name, exchange in exchanges.items()
                if symbol in exchange.books
                for working in exchange.crossable(symbol, now)
            ]
            if not orders:
                self.symbols.discard(symbol)
                continue
            buys = [one for one in orders if one[2].order.side is Side.BUY]
            sells = [one for one in orders if one[2].order.side is Side.SELL]
            price = positions[symbol].mark_decimal
            for buy in buys:
                for sell in sells:
                    if buy[0] != sell[0] and self._cross(buy, sell, price, now):
                        filled |= {buy[0]: None, sell[0]: None}
        return list(filled)

    def _cross(self, buy: _Candidate, sell: _Candidate, price: Decimal, now: int) -> bool:
        _, buyer, bought = buy
        _, seller, sold = sell
        symbol = bought.order.symbol
        if bought not in buyer.books[symbol] or sold not in seller.books[symbol]:
            return False  # a cross before has filled or ended one of them
        qty = min(buyer.most_at(bought, price), seller.most_at(sold, price))
        if qty <= 0:
            return False
        totals = self.totals
        totals.count += 1
        totals.value += qty * price
        totals.fees_saved += buyer.taker_fee(symbol, qty, price) + seller.taker_fee(symbol, qty, price)
        buyer.cross(bought, qty, price, now)
        seller.cross(sold, qty, price, now)
        return True
