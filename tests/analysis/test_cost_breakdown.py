"""The breakdown of costs from the gross to the net result."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from agent.analysis.cost_breakdown import cost_breakdown
from agent.core.events import Fill, FundingPayment, Side


def fill(side: Side, price: str, slippage: str, *, maker: bool = False) -> Fill:
    return Fill("", "", "X", 0, 0, side, D(2), D(price), D("0.1"), maker, D(slippage))


@pytest.mark.parametrize(
    ("moves", "spread", "slippage", "fees", "funding"),
    [
        ([], 0, 0, 0, 0),
        # At a price of 100, the half-spread is 10 basis points on 2; the rest is price impact
        ([fill(Side.BUY, "100.3", "0.6")], -0.2, -0.4, -0.1, 0),
        ([fill(Side.SELL, "99.7", "0.6")], -0.2, -0.4, -0.1, 0),
        ([fill(Side.BUY, "100", "0", maker=True)], 0, 0, -0.1, 0),  # a maker pays no spread
        ([fill(Side.BUY, "100", "0")], 0, 0, -0.1, 0),  # the spread is never more than the slippage
        ([FundingPayment("X", 0, D(0), D(1), D(1), D("-0.5"))], 0, 0, 0, -0.5),
    ],
)
def test_each_kind_of_cost(moves: list, spread: float, slippage: float, fees: float, funding: float) -> None:
    costs = cost_breakdown(moves, 10.0, net=7.0)
    found = (costs.spread, costs.slippage, costs.fees, costs.funding)
    assert found == pytest.approx((spread, slippage, fees, funding), abs=1e-12)
    assert costs.gross + sum(found) == pytest.approx(costs.net)
    assert costs.net == 7.0
