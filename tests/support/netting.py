"""How a venue keeps a position on margin: one for all who trade in the account, at its average price. Not the product's own ledger."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

_NOTHING: Final = Decimal(0)


class NetPosition:
    """`qty` is signed, in base coin; `realised` is what the wallet has got by it, in quote currency, fees apart."""

    def __init__(self) -> None:
        self.qty = self.cost = self.realised = _NOTHING

    @property
    def entry(self) -> Decimal:
        """The average price; 0 where it is flat."""
        return self.cost / self.qty if self.qty else _NOTHING

    def trade(self, qty: Decimal, price: Decimal) -> None:
        """Buy `qty`, or sell what is negative: first against what is held, which realises, then on top of it."""
        closed = min(abs(qty), abs(self.qty)) if self.qty * qty < 0 else _NOTHING
        if closed:
            closed = closed if self.qty > 0 else -closed
            entry = self.entry
            self.realised += closed * (price - entry)
            self.cost -= closed * entry
        self.cost += (qty + closed) * price
        self.qty += qty
