"""What an account can afford, and the price at which it is liquidated."""

from __future__ import annotations

from decimal import Decimal
from math import nan

from agent.core.events import Side
from agent.core.instruments import Instrument
from agent.core.portfolio import Portfolio, Position


class MarginRules:
    """Cross margin for perpetuals; cash up front and no short sales for spot and equities."""

    def __init__(self, instruments: dict[str, Instrument], portfolio: Portfolio, leverage: Decimal) -> None:
        self._instruments = instruments
        self._portfolio = portfolio
        self.leverage = {symbol: min(leverage, rules.max_leverage) for symbol, rules in instruments.items()}

    def affordable(self, instrument: Instrument, side: Side, price: Decimal, fee: Decimal) -> Decimal:
        """The largest quantity that may be traded at `price`, at `fee` a unit: what reduces the position, then what the margin carries.

        For a perpetual the position after the trade must satisfy |qty| * price <= leverage * equity - the notional of the others.
        """
        portfolio = self._portfolio
        held = portfolio.positions[instrument.symbol]
        if not instrument.is_margined:
            return portfolio.cash / (price + fee) if side is Side.BUY else held.qty
        equity = portfolio.exact_equity() - held.qty * (held.mark_decimal - price)
        others = sum((abs(p.qty) * p.mark_decimal for p in portfolio.open if p is not held), Decimal(0))
        carried = (equity * self.leverage[instrument.symbol] - others) / price
        return max(carried - held.qty * side.sign, -held.qty * side.sign, Decimal(0))

    def liquidation_price(self, position: Position) -> float:
        """The mark p of `position` at which equity(p) falls to the maintenance margin of all positions; NaN where there is none.

        equity(p) = E + q (p - mark) and margin(p) = m |q| p + that of the others, solved for p.
        """
        portfolio = self._portfolio
        q = position.size
        if not q:
            return nan
        rate = float(self._instruments[position.symbol].maintenance_margin)
        others = sum(
            abs(p.size) * p.mark * float(self._instruments[p.symbol].maintenance_margin)
            for p in portfolio.open
            if p is not position
        )
        price = (portfolio.equity() - q * position.mark - others) / (rate * abs(q) - q)
        return price if price > 0 else nan
