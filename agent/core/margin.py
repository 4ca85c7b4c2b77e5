"""Margin rules: affordable quantities and liquidation prices."""

from __future__ import annotations

from decimal import Decimal
from math import nan

from agent.core.events import Side
from agent.core.instruments import Instrument
from agent.core.portfolio import Portfolio, Position


class MarginRules:
    """Cross margin for perpetuals; full payment and no short sales for spot and equities."""

    def __init__(self, instruments: dict[str, Instrument], portfolio: Portfolio, leverage: Decimal) -> None:
        self._instruments = instruments
        self._portfolio = portfolio
        self.leverage = {symbol: min(leverage, rules.max_leverage) for symbol, rules in instruments.items()}

    def affordable(self, instrument: Instrument, side: Side, price: Decimal, fee: Decimal) -> Decimal:
        """Return the largest quantity that may be traded at `price` with a fee of `fee` per unit.

        Perpetuals: the position after the trade must satisfy |qty| * price <= leverage * equity - notional of
        the other positions; a trade that only reduces is always allowed. Spot and equities: cash covers
        purchases.
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
        """Return the mark p at which equity falls to the maintenance margin of all positions; NaN if no price
        does.

        With the other positions' marks fixed, p solves E + q (p - mark) = m |q| p + margin of the others.
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
