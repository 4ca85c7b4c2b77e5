"""From the gross to the net result: the part of each kind of cost."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from agent.core.events import Fill, FundingPayment

_BPS = Decimal("0.0001")


class CostBreakdown(msgspec.Struct, frozen=True):
    """Amounts in quote currency; costs are negative. `gross` and all costs add up to `net`.

    `spread` is half the configured spread on each taker fill. `slippage` is everything that was paid beyond
    it: the price impact of the order and rounding to the tick.
    """

    gross: float
    spread: float
    slippage: float
    fees: float
    funding: float
    net: float


def cost_breakdown(
    moves: Iterable[Fill | FundingPayment], half_spread_bps: float, net: float
) -> CostBreakdown:
    """Break down the costs of a run with net result `net` and the configured `half_spread_bps`."""
    half_spread = Decimal(repr(half_spread_bps)) * _BPS
    spread = beyond = fees = funding = Decimal(0)
    for move in moves:
        if isinstance(move, FundingPayment):
            funding += move.amount
            continue
        fees += move.fee
        paid = Decimal(0)
        if not move.maker and move.qty:
            reference = move.price * move.qty - move.slippage * move.side.sign
            paid = min(reference * half_spread, max(move.slippage, Decimal(0)))
        spread += paid
        beyond += move.slippage - paid
    costs = (-float(amount) for amount in (spread, beyond, fees, -funding))
    spread_cost, slippage, fee_cost, funding_result = costs
    gross = net - spread_cost - slippage - fee_cost - funding_result
    return CostBreakdown(gross, spread_cost, slippage, fee_cost, funding_result, net)
