"""A record that is older than the venue's history, and ids that other orders have: nothing is believed, lost or doubled."""

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
from agent.live.gateway.in_flight_order import Intent
from agent.live.gateway.venue_port import OutcomeUnknown, VenueOrder
from agent.sandbox.faults import parse_fault
from tests.live.gateway.test_gateway import Desk, again, desk
from tests.sandbox.conftest import SandboxClient
from tests.support.live import until

D = Decimal
SYMBOL = "BTCUSDT"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def old_id(number: int) -> str:
    """The id that a run without lives gives to its decision of this number."""
    return "tw-" + blake2b(f"run:{number}".encode(), digest_size=16).hexdigest()


def command(given: Desk, action: str, **args: str) -> None:
    now = given.sandbox.clock.now()
    given.emit(Command(action, now, now, args, "test"))


def _legs(given: Desk) -> list[Any]:
    return list(given.sandbox.venue.account.books["linear"].open_legs())


def open_links(given: Desk) -> set[str]:
    return {order.link for order in given.sandbox.venue.account.open.values()}


def risk_rules(given: Desk) -> list[str]:
    return [one.rule for one in given.sink.decisions if isinstance(one, RiskEvent)]


async def test_a_closing_order_whose_id_another_order_has_is_placed_under_a_new_one(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with desk(tmp_path) as given, given.trading():
        await SandboxClient(given.sandbox, session).place_order(qty="0.02", orderLinkId=old_id(1))
        await until(lambda: given.ledger.held(SYMBOL) == D("0.02"))
        assert given.engine.risk.rule == OLDER_RECORD
        given.want(0.0)
        await until(lambda: not _legs(given) and given.gateway.health.intents == {})
        first, second = given.orders
        assert (first.id, second.id) == (old_id(1), old_id(2))
        assert (second.side, second.qty, second.reduce_only) == (first.side, first.qty, True)
        assert given.ends() == {first.id: OrderStatus.REJECTED, second.id: OrderStatus.FILLED}
        assert given.gateway.health.taken_ids == 1
        assert "side BUY instead of SELL" in next(
            one.detail for one in given.sink.decisions if isinstance(one, RiskEvent) and one.rule == TAKEN_ID
        )
        await given.reconciled()
        assert not given.ledger.drift


async def test_a_kill_is_not_content_with_an_id_that_another_order_has(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with desk(tmp_path) as given, given.trading():
        await SandboxClient(given.sandbox, session).place_order(qty="0.02", orderLinkId=old_id(1))
        await until(lambda: given.ledger.held(SYMBOL) == D("0.02"))
        command(given, "kill", flatten="true")
        await until(lambda: not _legs(given) and not given.engine.flattener.open)
        assert TAKEN_ID in risk_rules(given)


async def test_an_entry_whose_id_is_taken_by_an_order_that_the_venue_does_not_show_is_dropped_with_an_alarm(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as given, given.trading():
        given.sandbox.venue.faults.add([parse_fault("retcode,on=rest/v5/order/create,code=110072")])
        entry = given.target(0.1)
        await until(lambda: entry.id in given.ends())
        assert given.ends()[entry.id] is OrderStatus.REJECTED
        assert given.gateway.health.existed == 3
        assert risk_rules(given) == [OLDER_RECORD, TAKEN_ID]
        assert [order.id for order in given.orders] == [entry.id]


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
def test_what_shows_that_an_order_is_another_one(order: Order, found: VenueOrder, difference: str) -> None:
    intent = Intent(order, 0.0)
    intent.after = 900
    told = intent.differs(found, spot=False)
    assert told.startswith(difference) if difference else not told


def test_an_amended_order_is_itself_with_both_quantities() -> None:
    intent = Intent(LIMIT, 0.0)
    intent.order = replace(LIMIT, qty=D("0.05"))
    assert not intent.differs(FOUND_LIMIT, spot=False)
    assert not intent.differs(replace(FOUND_LIMIT, qty=D("0.05")), spot=False)
    assert intent.differs(replace(FOUND_LIMIT, qty=D("0.06")), spot=False)


@pytest.mark.parametrize("foreign", ["refuse", "adopt", "ignore"])
async def test_what_a_restored_record_has_lost_is_booked_and_a_person_has_to_resume(
    foreign: str, tmp_path: Path
) -> None:
    execution = {"foreign": foreign, "reconcile_every": "200ms"}
    async with desk(tmp_path, execution=execution) as given:
        async with given.trading():
            command(given, "life", incarnation="a" * 32)
            await given.ended(given.target(0.1))
            await given.reconciled()
            backup = list(given.journal)
            held = given.ledger.held(SYMBOL)
            await given.ended(given.target(0.0))
            entry = given.target(0.3, stop=-0.05)
            await until(lambda: entry.id in given.ends() and given.gateway.health.intents == {"accepted": 1})
            now = given.ledger.held(SYMBOL)
            resting = given.target(0.4, limit=46_000.0)
            await until(lambda: given.gateway.health.intents == {"accepted": 2})
            (stop,) = (order.id for order in given.orders if order.type is OrderType.STOP)
        assert 0 < held < now
        given.journal = backup
        reborn = await again(given, tmp_path, execution)
        assert reborn.ledger.held(SYMBOL) == held
        async with reborn.trading():
            command(reborn, "life", incarnation="b" * 32)
            await until(lambda: reborn.ledger.held(SYMBOL) == now)
            risk = reborn.engine.risk
            assert (risk.state, risk.rule) == (RiskState.REDUCING, OLDER_RECORD)
            assert "executions and" in risk.detail
            assert "tapewire resume" in risk.detail
            # an entry that nobody looks after is taken back
            await until(lambda: resting.id not in open_links(given))
            assert stop in open_links(given)  # and what protects stays
            orders = len(reborn.orders)
            reborn.want(0.6)
            assert len(reborn.orders) == orders
            await reborn.reconciled()
            assert not reborn.ledger.drift
            command(reborn, "resume")
            assert risk.state is RiskState.ACTIVE
            await until(lambda: stop not in open_links(given))
            await reborn.reconciled()
            assert reborn.ledger.held(SYMBOL) == now
            command(reborn, "kill", flatten="true")
            await until(lambda: not _legs(given) and not reborn.engine.flattener.open)
            assert reborn.gateway.health.taken_ids == 0
            await reborn.reconciled()
            assert not reborn.ledger.drift


async def test_a_kill_takes_back_what_the_record_has_lost_though_others_are_ignored(tmp_path: Path) -> None:
    execution = {"foreign": "ignore", "reconcile_every": "200ms"}
    async with desk(tmp_path, execution=execution) as given:
        async with given.trading():
            command(given, "life", incarnation="a" * 32)
            backup = list(given.journal)
            entry = given.target(0.3, stop=-0.05)
            await until(lambda: entry.id in given.ends() and given.gateway.health.intents == {"accepted": 1})
        given.journal = backup
        reborn = await again(given, tmp_path, execution)
        async with reborn.trading():
            command(reborn, "life", incarnation="b" * 32)
            await until(lambda: reborn.ledger.held(SYMBOL) > 0)
            command(reborn, "kill", flatten="true")
            await until(lambda: not _legs(given) and not open_links(given))


# -- what nobody told, and what waits ------------------------------------------------------------------------------------


async def test_what_happened_while_the_stream_was_away_is_asked_for_when_it_is_back(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """Without waiting for the next look at the account, which is an hour away."""
    async with desk(tmp_path, execution={"reconcile_every": "1h", "poll_every": "1h"}) as given:
        cut, back, listen = asyncio.Event(), asyncio.Event(), given.port.stream

        async def stream(hear: Any, ready: Any) -> Any:
            if cut.is_set():
                await back.wait()
                await listen(hear, ready)
            listening = asyncio.ensure_future(listen(hear, ready))
            await cut.wait()
            listening.cancel()
            await asyncio.wait([listening])
            raise OutcomeUnknown("cut")

        given.port.stream = stream  # type: ignore[method-assign]
        async with given.trading():
            entry = given.target(0.1, limit=46_000.0)
            await until(
                lambda: given.gateway.health.intents == {"accepted": 1} and given.gateway.health.stream
            )
            cut.set()
            await given.reconciled()  # for the stream was lost
            assert not given.gateway.health.stream
            changed = {"category": "linear", "symbol": SYMBOL, "orderLinkId": entry.id, "price": "50100"}
            assert (await SandboxClient(given.sandbox, session).post("/v5/order/amend", **changed))[
                "retCode"
            ] == 0
            await until(lambda: _legs(given))
            assert given.ledger.held(SYMBOL) == 0
            back.set()
            await until(lambda: given.ledger.held(SYMBOL) == entry.qty)


async def test_an_entry_that_waits_for_the_venue_is_not_sent_after_a_kill(tmp_path: Path) -> None:
    async with desk(tmp_path) as given, given.trading():
        given.sandbox.venue.faults.add([parse_fault("retcode,on=rest/v5/order/create,code=10006,count=1")])
        mended = asyncio.Event()
        calm = given.gateway._line.calm

        async def patient() -> None:
            await mended.wait()
            await calm()

        given.gateway._line.calm = patient  # type: ignore[method-assign]
        entry = given.target(0.1)
        await asyncio.sleep(0)
        command(given, "kill")
        mended.set()
        assert await given.ended(entry) is OrderStatus.CANCELLED
        assert not [order for order in given.sandbox.venue.account.orders.values() if order.link == entry.id]
