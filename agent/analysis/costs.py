"""From the gross to the net result: what each kind of cost took."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from agent.core.events import Fill, FundingPayment

_BPS = Decimal("0.0001")


class Costs(msgspec.Struct, frozen=True):
    """Money in quote currency; what was paid is negative. `gross` and the costs add up to `net`.

    `spread` is half the configured spread at the price that each taker met; `slippage` all that was paid beyond it: the
    market's answer to the order's size, and rounding to the tick.
    """

    gross: float
    spread: float
    slippage: float
    fees: float
    funding: float
    net: float


class CostCounter:
    """Folds executions and funding payments; `half_spread_bps` is the configuration's."""

    def __init__(self, half_spread_bps: float) -> None:
        self._half_spread = Decimal(repr(half_spread_bps)) * _BPS
        self._spread = self._beyond = self._fees = self._funding = Decimal(0)

    def add(self, move: Fill | FundingPayment) -> None:
        """Count one."""
        if isinstance(move, FundingPayment):
            self._funding += move.amount
            return
        self._fees += move.fee
        if not move.maker and move.qty:
            reference = move.price * move.qty - move.slippage * move.side.sign
            spread = min(reference * self._half_spread, max(move.slippage, Decimal(0)))
            self._spread += spread
            self._beyond += move.slippage - spread
        else:
            self._beyond += move.slippage

    def costs(self, net: float) -> Costs:
        """The account of a run that changed equity by `net`."""
        spread, beyond, fees, funding = (
            -float(x) for x in (self._spread, self._beyond, self._fees, -self._funding)
        )
        return Costs(net - spread - beyond - fees - funding, spread, beyond, fees, funding, net)


def costs_of(moves: Iterable[Fill | FundingPayment], half_spread_bps: float, net: float) -> Costs:
    """The same of a whole run."""
    counter = CostCounter(half_spread_bps)
    for move in moves:
        counter.add(move)
    return counter.costs(net)
