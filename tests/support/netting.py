"""Reference model of one netted margin position at its average price, independent of the product's ledger."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

_NOTHING: Final = Decimal(0)


class NetPosition:
    """`qty` is signed, in base coin; `realised` is the realised profit in quote currency, without fees."""

    def __init__(self) -> None:
        self.qty = self.cost = self.realised = _NOTHING

    @property
    def entry(self) -> Decimal:
        """The average price; 0 if the position is flat."""
        return self.cost / self.qty if self.qty else _NOTHING

    def trade(self, qty: Decimal, price: Decimal) -> None:
        """Buy `qty`, or sell if negative: reduce the position and realise its profit, then open the rest."""
        closed = min(abs(qty), abs(self.qty)) if self.qty * qty < 0 else _NOTHING
        if closed:
            closed = closed if self.qty > 0 else -closed
            entry = self.entry
            self.realised += closed * (price - entry)
            self.cost -= closed * entry
        self.cost += (qty + closed) * price
        self.qty += qty
