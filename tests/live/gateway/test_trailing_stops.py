"""Trailing stops at the sandbox: set with the position, moved by the venue, and the same as on paper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.core.events import Event, Fill, Kline, Order, OrderStatus, OrderType
from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.faults import parse_fault
from agent.sandbox.replay_market import PublicTrade
from tests.live.gateway.test_gateway import GatewayHarness, config_for, gateway_harness
from tests.sandbox.conftest import write_bars
from tests.support.live import until
from tests.support.market import SYMBOL, Plan, bar, config, run

D = Decimal
TRADING_STOP = "rest/v5/position/trading-stop"
HILL = [50_000.0] * 200 + [50_000.0 + 20 * n for n in range(100)] + [52_000.0 - 20 * n for n in range(400)]


class PriceRecorder:
    """Keeps the prices of the market from when the position's trailing stop was set."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.prices: list[float] = []
        self.worked = False
        self._leg = sandbox.venue.account.books["linear"].legs[SYMBOL][0]
        sandbox.venue.market.listeners.append(self)

    def on_trade(self, trade: PublicTrade) -> None:
        self.worked = self.worked or self._leg.trailing is not None
        if self.worked:
            self.prices.append(trade.price)

    def on_close(self, symbol: str, index: int) -> None:
        pass


def trailing(harness: GatewayHarness) -> list[Order]:
    return [one for one in harness.orders if one.type is OrderType.TRAILING_STOP]


def distance_at_venue(harness: GatewayHarness) -> Decimal | None:
    return harness.sandbox.venue.account.books["linear"].legs[SYMBOL][0].trailing


async def held(harness: GatewayHarness) -> None:
    """Wait until the newest trailing stop works at the venue, and no other order does."""
    await until(lambda: bool(trailing(harness)) and distance_at_venue(harness) == trailing(harness)[-1].trail)
    await until(lambda: harness.gateway.health.intents == {"accepted": 1})


@asynccontextmanager
async def on_the_hill(tmp_path: Path) -> AsyncIterator[GatewayHarness]:
    """A gateway at a sandbox whose price rises from 50,000 to 52,000 and then falls."""
    file = write_bars(tmp_path / "BTCUSDT-1m.csv", HILL)
    limits: dict[str, Any] = {"ip_limit": 10**6, "socket_limit": 10**6}
    options = SandboxOptions(
        (file,), api_key="key", api_secret="secret", speed=900, history_bars=50, **limits
    )
    async with Sandbox(options) as sandbox:
        harness = GatewayHarness(sandbox, config_for(sandbox, tmp_path, {"recv_window": "1m"}))
        async with harness.trading():
            yield harness


async def test_a_trailing_stop_at_the_venue_leaves_where_paper_does(tmp_path: Path) -> None:
    async with on_the_hill(tmp_path) as harness:
        recorder = PriceRecorder(harness.sandbox)
        harness.want(0.1, trail=-0.012)
        await until(lambda: bool(trailing(harness)))
        stop = trailing(harness)[-1]
        assert (stop.trail, stop.reduce_only) == (D("600.0"), True)
        assert await harness.ended(stop) is OrderStatus.FILLED
        orders = harness.sandbox.venue.account.orders.values()
        [closing] = [one for one in orders if one.kind == "TrailingStop"]
        made = [one for one in harness.sink.decisions if isinstance(one, Fill) and one.order_id == stop.id]
        assert sum(fill.qty for fill in made) == closing.filled
        assert harness.exchange.held(SYMBOL) == 0
        assert made[0].reason == "trailing-stop"

        prices = recorder.prices
        on_paper = paper_exit(prices, stop.trail)
        step = max(abs(one - other) for one, other in pairwise(prices))
        assert closing.average is not None
        assert abs(float(closing.average) - on_paper) <= step + 0.1 + 0.5e-4 * on_paper  # half the spread


def paper_exit(prices: list[float], distance: object) -> float:
    """Return the price at which a trailing stop on paper leaves a position that is held from `prices[0]`."""
    assert isinstance(distance, Decimal)
    first = prices[0]
    decided, bought = bar(0, *[first] * 4), bar(1, *[first] * 4)
    updates: list[Event] = []
    for number, price in enumerate(prices, 1):
        moment = bought.ts + number
        updates.append(Kline(SYMBOL, 60_000, bought.ts, moment, moment, *[price] * 4, 1.0, confirm=False))
    target = {"qty": 1, "trail": -float(distance) / first}
    _, sink = run(Plan({0: target}), [decided, bought, *updates], config(), finish=False)
    [leaving] = [one for one in sink.decisions if isinstance(one, Fill) and one.reason == "trailing-stop"]
    return float(leaving.price)


async def test_a_tighter_trail_replaces_the_venues_and_a_looser_one_does_not(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(0.1, trail=-0.02)
        await held(harness)
        assert distance_at_venue(harness) == D(1_000)
        harness.want(0.1, trail=-0.03)
        harness.want(0.1, trail=-0.01)
        await held(harness)
        assert distance_at_venue(harness) == D(500)
        first, second = trailing(harness)
        await until(lambda: harness.ends().get(first.id) is OrderStatus.CANCELLED)
        assert second.id not in harness.ends()
        assert harness.engine.market.position(SYMBOL).trail == 49_500.0
        harness.want(0.1, trail=-0.03, loosen=True)
        await until(lambda: distance_at_venue(harness) == D(1_500))


async def test_closing_the_position_ends_its_trailing_stop(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(0.1, trail=-0.02)
        await held(harness)
        harness.want(0.0)
        assert await harness.ended(trailing(harness)[0]) is OrderStatus.CANCELLED
        assert distance_at_venue(harness) is None
        assert harness.exchange.held(SYMBOL) == 0


FAULTS = {
    "a timeout of a request that was not carried out": f"retcode,on={TRADING_STOP},code=10000,count=1",
    "a timeout of a request that was carried out": f"lost,on={TRADING_STOP},code=10000,count=1",
    "a rate limit": f"retcode,on={TRADING_STOP},code=10006,count=2",
    "a connection that is closed": f"close,on={TRADING_STOP},count=2",
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_trailing_stop_is_set_under_every_fault(name: str, tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.sandbox.venue.faults.add([parse_fault(FAULTS[name])])
        harness.want(0.1, trail=-0.02)
        await held(harness)
        await harness.reconciled()
        assert trailing(harness)[0].id not in harness.ends()
        assert distance_at_venue(harness) == D(1_000)


async def test_a_restarted_gateway_knows_the_trailing_stop_again(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        async with harness.trading():
            harness.want(0.1, trail=-0.02)
            await held(harness)
        config = config_for(harness.sandbox, tmp_path, {})
        again = GatewayHarness(harness.sandbox, config, harness.journal)
        async with again.trading():
            await again.reconciled()
            stop = trailing(again)[0]
            assert stop.id not in again.ends()
            harness.sandbox.venue.account.triggers.fire(SYMBOL, 48_000.0)  # 50,000 - 1,000 is above
            assert await again.ended(stop) is OrderStatus.FILLED
            assert again.exchange.held(SYMBOL) == 0


async def test_a_trailing_stop_that_was_removed_by_hand_ends(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(0.1, trail=-0.02)
        await held(harness)
        harness.sandbox.venue.account.books["linear"].legs[SYMBOL][0].trailing = None
        await until(lambda: harness.ends().get(trailing(harness)[0].id) is OrderStatus.CANCELLED)


async def test_a_kill_removes_the_trailing_stop(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.want(0.1, trail=-0.02)
        await held(harness)
        await harness.port.cancel_all(SYMBOL)
        assert distance_at_venue(harness) is None


async def test_a_shared_position_gets_a_fixed_stop_instead(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path, execution={"foreign": "ignore"}) as harness, harness.trading():
        harness.want(0.1, trail=-0.02)
        await until(lambda: any(one.type is OrderType.STOP for one in harness.orders))
        [stop] = [one for one in harness.orders if one.reduce_only]
        assert (stop.type, stop.trigger) == (OrderType.STOP, D(49_000))
        assert harness.engine.counts["trailing stops that stay fixed, on spot or in a shared position"] == 1
