"""Margin rules: affordable quantities and liquidation prices."""

from __future__ import annotations

from decimal import Decimal
from math import nan
from typing import Final

from agent.core.events import Side
from agent.core.instruments import Instrument
from agent.core.portfolio import Portfolio, Position

_ZERO: Final = Decimal(0)
_BUY: Final = Side.BUY


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
            return portfolio.cash / (price + fee) if side is _BUY else held.qty
        equity = portfolio.exact_equity() - held.qty * (held.mark_decimal - price)
        others = _ZERO
        for position in portfolio.open:
            if position is not held:
                others += abs(position.qty) * position.mark_decimal
        carried = (equity * self.leverage[instrument.symbol] - others) / price
        qty = held.qty if side is _BUY else -held.qty
        return max(max(carried - qty, -qty), _ZERO)  # of three, `max` would be called

    def liquidation_price(self, position: Position) -> float:
        """Return the mark p at which equity falls to the maintenance margin of all positions; NaN if no price
        does.

        With the other positions' marks fixed, p solves E + q (p - mark) = m |q| p + margin of the others.
        """
        portfolio = self._portfolio
        q = position.size
        if not q:
            return nan
        rate = self._instruments[position.symbol].maintenance
        others = sum(
            [
                abs(p.size) * p.mark * self._instruments[p.symbol].maintenance
                for p in portfolio.open
                if p is not position
            ]
        )
        price = (portfolio.equity() - q * position.mark - others) / (rate * abs(q) - q)
        return price if price > 0 else nan
