"""Take-profit levels, stop entries and expiry at the sandbox."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.core.events import Fill, OrderStatus, OrderType
from agent.sandbox.faults import parse_fault
from tests.live.gateway.test_gateway import GatewayHarness, gateway_harness
from tests.support.live import until
from tests.support.market import SYMBOL

D = Decimal


def conditional(harness: GatewayHarness) -> dict[str, tuple[Decimal | None, Decimal]]:
    """Return trigger and quantity of the venue's conditional orders by our id."""
    orders = harness.sandbox.venue.account.open.values()
    return {one.link: (one.trigger, one.qty) for one in orders if one.conditional}


def reach(harness: GatewayHarness, price: float) -> None:
    """Trigger what a price would trigger; the orders are then filled at the market's price, near 50,000."""
    harness.sandbox.venue.account.triggers.fire(SYMBOL, price)


@pytest.mark.slow
async def test_levels_close_their_shares_and_the_stop_follows_the_rest(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        # 10 % of 10,000 at 50,000 is 0.02
        harness.want(0.1, stop=-0.02, take_profit=[(0.01, 0.5), (0.02, 0.25)])
        whole = [(D(49_000), D("0.02")), (D(50_500), D("0.01")), (D(51_000), D("0.005"))]
        await until(lambda: sorted(conditional(harness).values()) == sorted(whole))
        reach(harness, 50_600.0)
        rest = [(D(49_000), D("0.01")), (D(51_000), D("0.005"))]
        await until(lambda: sorted(conditional(harness).values()) == sorted(rest))
        assert harness.exchange.held(SYMBOL) == D("0.01")
        assert harness.engine.market.position(SYMBOL).take_profits == (51_000.0,)
        reach(harness, 51_100.0)
        await until(lambda: list(conditional(harness).values()) == [(D(49_000), D("0.005"))])
        reach(harness, 48_000.0)
        await until(lambda: harness.exchange.held(SYMBOL) == 0 and harness.gateway.health.intents == {})
        await harness.reconciled()
        harness.assert_sound()


async def test_new_levels_replace_the_ones_at_the_venue(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(0.1, take_profit=[(0.01, 0.5), (0.02, 0.5)])
        first = [(D(50_500), D("0.01")), (D(51_000), D("0.01"))]
        await until(lambda: sorted(conditional(harness).values()) == first)
        harness.want(0.1, take_profit=[(0.03, 0.25), (0.04, 0.75)])
        second = [(D(51_500), D("0.005")), (D(52_000), D("0.015"))]
        await until(lambda: sorted(conditional(harness).values()) == second)


@pytest.mark.parametrize(("sign", "second", "third"), [(1, 49_500, 49_698), (-1, 50_500, 50_298)])
async def test_an_unchanged_target_moves_the_stop_at_the_venue(
    sign: int, second: int, third: int, tmp_path: Path
) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(sign * 0.1, stop=-sign * 0.02)
        first = 50_000 - sign * 1_000
        await until(lambda: list(conditional(harness).values()) == [(D(first), D("0.02"))])
        harness.want(sign * 0.1, stop=-sign * 0.01)
        await until(lambda: list(conditional(harness).values()) == [(D(second), D("0.02"))])
        # A distance counts from the last price: 1 % of 50,200 is 502, of 49,800 it is 498
        harness.bar(50_000.0 + sign * 200)
        harness.want(sign * 0.1, stop=-sign * 0.01)
        await until(lambda: list(conditional(harness).values()) == [(D(third), D("0.02"))])
        assert harness.engine.market.position(SYMBOL).stop == third
        assert harness.exchange.held(SYMBOL) == sign * D("0.02")
        stops = [one for one in harness.orders if one.reduce_only]
        await until(lambda: [harness.ends().get(one.id) for one in stops[:2]] == [OrderStatus.CANCELLED] * 2)
        reach(harness, third - sign * 10.0)
        assert await harness.ended(stops[2]) is OrderStatus.FILLED
        await harness.reconciled()
        assert harness.exchange.held(SYMBOL) == 0
        harness.assert_sound()


async def test_a_new_stop_that_the_venue_refuses_leaves_the_old_one(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(0.1, stop=-0.02)
        await until(lambda: list(conditional(harness).values()) == [(D(49_000), D("0.02"))])
        # The core believes in 51,000, so that its new stop is above the venue's price of 50,000
        harness.bar(51_000.0)
        harness.want(0.1, stop=-0.01)
        refused = harness.orders[-1]
        assert refused.trigger == D(50_490)
        await until(lambda: harness.ends().get(refused.id) is OrderStatus.REJECTED)
        await harness.reconciled()
        assert list(conditional(harness).values()) == [(D(49_000), D("0.02"))]
        assert harness.engine.market.position(SYMBOL).stop == 49_000.0


@pytest.mark.parametrize(
    "faults", [(), ("drop,on=ws/private/execution,count=1",)], ids=["", "late execution"]
)
@pytest.mark.parametrize("limit", [None, 50_600.0])
async def test_a_stop_entry_waits_at_the_venue(
    limit: float | None, faults: tuple[str, ...], tmp_path: Path
) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.sandbox.venue.faults.add([parse_fault(text) for text in faults])
        more: dict[str, Any] = {} if limit is None else {"limit": limit}
        entry = harness.target(0.1, stop_entry=50_500.0, stop=-0.02, **more)
        assert (entry.type, entry.trigger) == (OrderType.STOP, D("50500.0"))
        await until(lambda: entry.id in conditional(harness))
        [order] = [one for one in harness.sandbox.venue.account.open.values() if one.link == entry.id]
        assert (order.type, order.reduce_only) == ("Market" if limit is None else "Limit", False)
        reach(harness, 50_550.0)
        await until(lambda: harness.ends().get(entry.id) is OrderStatus.FILLED)
        # The venue may report the order's end before its execution, which the stop follows
        await until(lambda: [one.reduce_only for one in harness.orders] == [False, True])
        stop = harness.orders[1]
        anchor = D(50_500) if limit is None else D(50_600)
        assert stop.trigger == anchor * D("0.98")


async def test_an_entry_that_expires_is_cancelled_at_the_venue(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        entry = harness.target(0.1, limit=45_000.0, expire="200ms")
        await until(lambda: harness.gateway.health.intents == {"accepted": 1})
        await asyncio.sleep(0.3)
        harness.bar()
        await until(lambda: harness.ends().get(entry.id) is OrderStatus.CANCELLED)
        assert harness.engine.counts["entries that expired"] == 1
        assert not [one for one in harness.sink.decisions if isinstance(one, Fill)]
