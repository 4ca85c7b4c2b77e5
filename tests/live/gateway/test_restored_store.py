"""A record older than the venue's history, and taken client ids: no order is lost, duplicated or mistaken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from agent.core.events import Command, Order, OrderStatus, OrderType, RiskEvent, RiskState, Side
from agent.core.risk import OLDER_RECORD, TAKEN_ID
from agent.live.gateway.in_flight_order import InFlightOrder
from agent.live.gateway.venue_port import OutcomeUnknown, VenueOrder
from agent.sandbox.faults import parse_fault
from tests.live.gateway.test_gateway import GatewayHarness, again, gateway_harness
from tests.sandbox.conftest import SandboxClient
from tests.support.live import until

D = Decimal
SYMBOL = "BTCUSDT"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def old_id(number: int) -> str:
    """Return the id of a decision in a run without lives."""
    return "tw-" + blake2b(f"run:{number}".encode(), digest_size=16).hexdigest()


def command(harness: GatewayHarness, action: str, **args: str) -> None:
    now = harness.sandbox.clock.now()
    harness.emit(Command(action, now, now, args, "test"))


def _legs(harness: GatewayHarness) -> list[Any]:
    return list(harness.sandbox.venue.account.books["linear"].open_legs())


def open_links(harness: GatewayHarness) -> set[str]:
    return {order.link for order in harness.sandbox.venue.account.open.values()}


def risk_rules(harness: GatewayHarness) -> list[str]:
    return [one.rule for one in harness.sink.decisions if isinstance(one, RiskEvent)]


async def test_a_closing_order_with_a_taken_id_is_placed_under_a_new_one(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        await SandboxClient(harness.sandbox, session).place_order(qty="0.02", orderLinkId=old_id(1))
        await until(lambda: harness.exchange.held(SYMBOL) == D("0.02"))
        assert harness.engine.risk.rule == OLDER_RECORD
        harness.want(0.0)
        await until(lambda: not _legs(harness) and harness.gateway.health.intents == {})
        await until(lambda: len(harness.ends()) == 2)  # the execution comes before the order's end
        first, second = harness.orders
        assert (first.id, second.id) == (old_id(1), old_id(2))
        assert (second.side, second.qty, second.reduce_only) == (first.side, first.qty, True)
        assert harness.ends() == {first.id: OrderStatus.REJECTED, second.id: OrderStatus.FILLED}
        assert harness.gateway.health.taken_ids == 1
        assert "side BUY instead of SELL" in next(
            one.detail
            for one in harness.sink.decisions
            if isinstance(one, RiskEvent) and one.rule == TAKEN_ID
        )
        await harness.reconciled()
        assert not harness.exchange.drift


async def test_a_kill_flattens_although_an_id_is_taken(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        await SandboxClient(harness.sandbox, session).place_order(qty="0.02", orderLinkId=old_id(1))
        await until(lambda: harness.exchange.held(SYMBOL) == D("0.02"))
        command(harness, "kill", flatten="true")
        await until(lambda: not _legs(harness) and not harness.engine.flattener.open)
        assert TAKEN_ID in risk_rules(harness)


async def test_an_entry_whose_taken_id_the_venue_does_not_show_is_rejected_with_an_alarm(
    tmp_path: Path,
) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.sandbox.venue.faults.add([parse_fault("retcode,on=rest/v5/order/create,code=110072")])
        entry = harness.target(0.1)
        await until(lambda: entry.id in harness.ends())
        assert harness.ends()[entry.id] is OrderStatus.REJECTED
        assert harness.gateway.health.existed == 3
        assert risk_rules(harness) == [OLDER_RECORD, TAKEN_ID]
        assert [order.id for order in harness.orders] == [entry.id]


ORDER = Order("tw-1", SYMBOL, 1_000, Side.SELL, OrderType.MARKET, D("0.03"), reduce_only=True)
FOUND = VenueOrder(
    "v1",
    "tw-1",
    SYMBOL,
    Side.SELL,
    OrderType.MARKET,
    OrderStatus.FILLED,
    D("0.03"),
    D("0.03"),
    reduce_only=True,
    created=1_000,
)
LIMIT = replace(ORDER, type=OrderType.LIMIT, price=D(100), reduce_only=False)
FOUND_LIMIT = replace(FOUND, type=OrderType.LIMIT, price=D(100), reduce_only=False)
STOP = replace(ORDER, type=OrderType.TAKE_PROFIT, trigger=D(90))
FOUND_STOP = replace(FOUND, type=OrderType.STOP, trigger=D(90), qty=D("0.5"))


@pytest.mark.parametrize(
    ("order", "found", "difference"),
    [
        (ORDER, FOUND, ""),
        (ORDER, replace(FOUND, qty=D("0.02")), ""),
        (ORDER, replace(FOUND, qty=D("0.04")), "quantity 0.04 instead of 0.03"),
        (ORDER, replace(FOUND, side=Side.BUY), "side BUY instead of SELL"),
        (ORDER, replace(FOUND, symbol="ETHUSDT"), "symbol ETHUSDT instead of BTCUSDT"),
        (ORDER, replace(FOUND, reduce_only=False), "reduce-only False instead of True"),
        (ORDER, replace(FOUND, created=899), "time 899 instead of 900"),
        (ORDER, FOUND_LIMIT, "type LIMIT instead of MARKET"),
        (LIMIT, FOUND_LIMIT, ""),
        (LIMIT, replace(FOUND_LIMIT, price=D(101)), "price 101 instead of 100"),
        (LIMIT, replace(FOUND_LIMIT, qty=D("0.02")), "quantity 0.02 instead of 0.03"),
        (STOP, FOUND_STOP, ""),
        (STOP, replace(FOUND_STOP, trigger=D(91)), "trigger 91 instead of 90"),
        (ORDER, FOUND_STOP, "quantity 0.5 instead of 0.03"),
    ],
)
def test_an_order_that_differs_is_another_one(order: Order, found: VenueOrder, difference: str) -> None:
    known = InFlightOrder(order, 0.0)
    known.created_after = 900
    differs = known.differs(found, caps_reductions=True)
    assert differs.startswith(difference) if difference else not differs


def test_an_amended_order_is_recognised_by_both_quantities() -> None:
    known = InFlightOrder(LIMIT, 0.0)
    known.order = replace(LIMIT, qty=D("0.05"))
    assert not known.differs(FOUND_LIMIT, caps_reductions=True)
    assert not known.differs(replace(FOUND_LIMIT, qty=D("0.05")), caps_reductions=True)
    assert known.differs(replace(FOUND_LIMIT, qty=D("0.06")), caps_reductions=True)


@pytest.mark.parametrize("foreign", ["refuse", "adopt", "ignore"])
async def test_lost_executions_of_a_restored_record_are_booked_and_an_operator_must_resume(
    foreign: str, tmp_path: Path
) -> None:
    execution = {"foreign": foreign, "reconcile_every": "200ms"}
    async with gateway_harness(tmp_path, execution=execution) as harness:
        async with harness.trading():
            command(harness, "life", incarnation="a" * 32)
            await harness.ended(harness.target(0.1))
            await harness.reconciled()
            backup = list(harness.journal)
            held = harness.exchange.held(SYMBOL)
            await harness.ended(harness.target(0.0))
            entry = harness.target(0.3, stop=-0.05)
            await until(
                lambda: entry.id in harness.ends() and harness.gateway.health.intents == {"accepted": 1}
            )
            now = harness.exchange.held(SYMBOL)
            resting = harness.target(0.4, limit=46_000.0)
            await until(lambda: harness.gateway.health.intents == {"accepted": 2})
            (stop,) = (order.id for order in harness.orders if order.type is OrderType.STOP)
        assert 0 < held < now
        harness.journal = backup
        restarted = await again(harness, tmp_path, execution)
        assert restarted.exchange.held(SYMBOL) == held
        async with restarted.trading():
            command(restarted, "life", incarnation="b" * 32)
            await until(lambda: restarted.exchange.held(SYMBOL) == now)
            risk = restarted.engine.risk
            assert (risk.state, risk.rule) == (RiskState.REDUCING, OLDER_RECORD)
            assert "executions and" in risk.detail
            assert "tapewire resume" in risk.detail
            # an entry that no core tracks is cancelled
            await until(lambda: resting.id not in open_links(harness))
            assert stop in open_links(harness)  # protective orders stay
            orders = len(restarted.orders)
            restarted.want(0.6)
            assert len(restarted.orders) == orders
            await restarted.reconciled()
            assert not restarted.exchange.drift
            command(restarted, "resume")
            assert risk.state is RiskState.ACTIVE
            await until(lambda: stop not in open_links(harness))
            await restarted.reconciled()
            assert restarted.exchange.held(SYMBOL) == now
            command(restarted, "kill", flatten="true")
            await until(lambda: not _legs(harness) and not restarted.engine.flattener.open)
            assert restarted.gateway.health.taken_ids == 0
            await restarted.reconciled()
            assert not restarted.exchange.drift


async def test_a_kill_cancels_lost_orders_although_foreign_orders_are_ignored(tmp_path: Path) -> None:
    execution = {"foreign": "ignore", "reconcile_every": "200ms"}
    async with gateway_harness(tmp_path, execution=execution) as harness:
        async with harness.trading():
            command(harness, "life", incarnation="a" * 32)
            backup = list(harness.journal)
            entry = harness.target(0.3, stop=-0.05)
            await until(
                lambda: entry.id in harness.ends() and harness.gateway.health.intents == {"accepted": 1}
            )
        harness.journal = backup
        restarted = await again(harness, tmp_path, execution)
        async with restarted.trading():
            command(restarted, "life", incarnation="b" * 32)
            await until(lambda: restarted.exchange.held(SYMBOL) > 0)
            command(restarted, "kill", flatten="true")
            await until(lambda: not _legs(harness) and not open_links(harness))


# -- outages, and orders that wait ---------------------------------------------------------------------------


async def test_executions_during_a_stream_outage_are_fetched_on_reconnect(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """The next scheduled reconciliation is an hour away."""
    async with gateway_harness(tmp_path, execution={"reconcile_every": "1h", "poll_every": "1h"}) as harness:
        cut, back, listen = asyncio.Event(), asyncio.Event(), harness.port.stream

        async def stream(hear: Any, ready: Any) -> Any:
            if cut.is_set():
                await back.wait()
                await listen(hear, ready)
            listening = asyncio.ensure_future(listen(hear, ready))
            await cut.wait()
            listening.cancel()
            await asyncio.wait([listening])
            raise OutcomeUnknown("cut")

        harness.port.stream = stream  # type: ignore[method-assign]
        async with harness.trading():
            entry = harness.target(0.1, limit=46_000.0)
            await until(
                lambda: harness.gateway.health.intents == {"accepted": 1} and harness.gateway.health.stream
            )
            cut.set()
            await harness.reconciled()  # because the stream was lost
            assert not harness.gateway.health.stream
            changed = {"category": "linear", "symbol": SYMBOL, "orderLinkId": entry.id, "price": "50100"}
            assert (await SandboxClient(harness.sandbox, session).post("/v5/order/amend", **changed))[
                "retCode"
            ] == 0
            await until(lambda: _legs(harness))
            assert harness.exchange.held(SYMBOL) == 0
            back.set()
            await until(lambda: harness.exchange.held(SYMBOL) == entry.qty)


async def test_an_entry_that_waits_out_a_rate_limit_is_not_sent_after_a_kill(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.sandbox.venue.faults.add([parse_fault("retcode,on=rest/v5/order/create,code=10006,count=1")])
        ban_over = asyncio.Event()
        wait_if_banned = harness.gateway._client.wait_if_banned

        async def wait_longer() -> None:
            await ban_over.wait()
            await wait_if_banned()

        harness.gateway._client.wait_if_banned = wait_longer  # type: ignore[method-assign]
        entry = harness.target(0.1)
        await asyncio.sleep(0)
        command(harness, "kill")
        ban_over.set()
        assert await harness.ended(entry) is OrderStatus.CANCELLED
        assert not [
            order for order in harness.sandbox.venue.account.orders.values() if order.link == entry.id
        ]
