"""Trailing stops at the sandbox: set with the position, moved by the venue, and the same as on paper."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.core.engine import Engine
from agent.core.events import Command, Fill, Kline, News, Order, OrderStatus, OrderType, Side
from agent.core.risk import OLDER_RECORD
from agent.core.sinks import ListSink
from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.faults import parse_fault
from agent.sandbox.replay_market import PublicTrade
from tests.live.gateway.test_gateway import (
    GatewayHarness,
    ScriptedStrategy,
    config_for,
    gateway_harness,
)
from tests.sandbox.conftest import write_bars
from tests.support.live import until
from tests.support.market import SYMBOL, bar, config

D = Decimal
TRADING_STOP = "rest/v5/position/trading-stop"
HILL = [50_000.0] * 60 + [50_000.0 + 20 * n for n in range(40)] + [50_800.0 - 20 * n for n in range(300)]
VALLEY = [100_000.0 - price for price in HILL]


class PriceRecorder:
    """Keeps prices and the distances at the venue in their order, from the trailing stop to its end."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.path: list[float | Decimal] = []
        self._last = 0.0
        self._distance: Decimal | None = None
        self._ended = False
        self._leg = sandbox.venue.account.books["linear"].legs[SYMBOL][0]
        sandbox.venue.market.listeners.append(self)

    def on_trade(self, trade: PublicTrade) -> None:
        """Called after the venue's own triggers."""
        distance = self._leg.trailing
        if distance is not None and distance != self._distance:
            # it follows from the price that was the last one when it was set
            self.path += [distance] if self.path else [self._last, distance]
            self._distance = distance
        if self.path and not self._ended:
            self.path.append(trade.price)
            self._ended = distance is None
        self._last = trade.price

    @property
    def prices(self) -> list[float]:
        return [one for one in self.path if isinstance(one, float)]

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
async def moving_market(tmp_path: Path, closes: list[float]) -> AsyncIterator[GatewayHarness]:
    """A gateway at a sandbox whose minutes pass in a fifteenth of a second."""
    file = write_bars(tmp_path / "BTCUSDT-1m.csv", closes)
    limits: dict[str, Any] = {"ip_limit": 10**6, "socket_limit": 10**6}
    options = SandboxOptions(
        (file,), api_key="key", api_secret="secret", speed=900, history_bars=20, **limits
    )
    async with Sandbox(options) as sandbox:
        harness = GatewayHarness(sandbox, config_for(sandbox, tmp_path, {"recv_window": "1m"}))
        async with harness.trading():
            yield harness


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closes", "weight", "tighter"),
    [
        pytest.param(HILL, 0.1, False, id="long over a hill"),
        pytest.param(VALLEY, -0.1, False, id="short through a valley"),
        pytest.param(HILL, 0.1, True, id="long, tightened after the top"),
        pytest.param(VALLEY, -0.1, True, id="short, tightened after the bottom"),
    ],
)
async def test_a_trailing_stop_at_the_venue_leaves_where_paper_does(
    closes: list[float], weight: float, tighter: bool, tmp_path: Path
) -> None:
    sign = 1 if weight > 0 else -1
    async with moving_market(tmp_path, closes) as harness:
        recorder = PriceRecorder(harness.sandbox)
        harness.want(weight, trail=-sign * 0.012)
        if tighter:

            def is_beyond_the_turn() -> bool:
                way = [price * sign for price in recorder.prices]
                return bool(way) and max(way) - way[-1] > 250

            await until(is_beyond_the_turn)
            harness.bar(recorder.prices[-1])  # the core must know the price, of which it takes the fraction
            harness.want(weight, trail=-sign * 0.004)
        await until(lambda: len(trailing(harness)) == (2 if tighter else 1))
        stop = trailing(harness)[-1]
        assert stop.reduce_only
        assert await harness.ended(stop) is OrderStatus.FILLED
        orders = harness.sandbox.venue.account.orders.values()
        [closing] = [one for one in orders if one.kind == "TrailingStop"]
        made = [one for one in harness.sink.decisions if isinstance(one, Fill) and one.order_id == stop.id]
        assert sum(fill.qty for fill in made) == closing.filled
        assert harness.exchange.held(SYMBOL) == 0
        assert made[0].reason == "trailing-stop"

        distances = [one for one in recorder.path if isinstance(one, Decimal)]
        assert len(distances) == (2 if tighter else 1)
        assert distances[-1] == stop.trail
        on_paper = paper_exit(recorder.path, sign)
        assert on_paper == pytest.approx(
            recorder.prices[-1], abs=0.1
        )  # the very price that triggered it there
        assert closing.average is not None
        assert abs(float(closing.average) - on_paper) <= 0.1 + 0.5e-4 * on_paper  # a tick and half the spread


def paper_exit(path: list[float | Decimal], sign: int) -> float:
    """Return the price at which a trailing stop on paper leaves a position of `sign` on the same path."""
    first, last = path[0], 0.0
    assert isinstance(first, float)
    sink = ListSink()
    engine = Engine(config(), ScriptedStrategy(), sink, run_id="paper")
    decided, bought = bar(0, *[first] * 4), bar(1, *[first] * 4)
    engine.handle(decided)
    engine.handle(wish(decided.ts, {"qty": 0.1 * sign}))
    engine.handle(bought)
    for number, one in enumerate(path, 1):
        moment = bought.ts + number
        if isinstance(one, Decimal):
            engine.handle(wish(moment, {"qty": 0.1 * sign, "trail": -sign * float(one) / last}))
        else:
            last = one
            engine.handle(Kline(SYMBOL, 60_000, bought.ts, moment, moment, *[one] * 4, 1.0, confirm=False))
    [leaving] = [one for one in sink.decisions if isinstance(one, Fill) and one.reason == "trailing-stop"]
    return float(leaving.price)


def wish(moment: int, target: dict[str, Any]) -> News:
    return News(f"n{moment}", moment, moment, json.dumps(target))


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


@pytest.mark.slow
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


@pytest.mark.parametrize("foreign", ["refuse", "adopt"])
async def test_a_trade_of_a_stop_that_a_restored_record_lacks_is_booked(foreign: str, tmp_path: Path) -> None:
    """The venue gives such a trade no id of ours: it is ours because the record lacks its entry, too."""
    execution = {"foreign": foreign}
    async with gateway_harness(tmp_path, execution=execution) as harness:
        async with harness.trading():
            now = harness.sandbox.clock.now()
            harness.emit(Command("life", now, now, {"incarnation": "a" * 32}, "test"))
            await harness.reconciled()
            backup = list(harness.journal)
            harness.want(0.1, trail=-0.02)
            await held(harness)
            harness.sandbox.venue.account.triggers.fire(SYMBOL, 48_000.0)
            assert await harness.ended(trailing(harness)[0]) is OrderStatus.FILLED
            cash = harness.engine.portfolio.cash
        config = config_for(harness.sandbox, tmp_path, execution)
        restarted = GatewayHarness(harness.sandbox, config, backup)
        async with restarted.trading():
            await restarted.reconciled()
            fills = [one for one in restarted.sink.decisions if isinstance(one, Fill)]
            bought, sold = (
                sum(one.qty for one in fills if one.side is side) for side in (Side.BUY, Side.SELL)
            )
            assert bought == sold > 0
            assert restarted.exchange.held(SYMBOL) == 0
            assert restarted.engine.portfolio.cash == cash
            assert restarted.engine.risk.rule == OLDER_RECORD
            assert not restarted.exchange.drift


@pytest.mark.slow
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
