"""What becomes of an order where the venue, the network and the process misbehave: each row is one way, against a real exchange.

A gateway trades for a core that is fed by hand. At the end of each row the ledger is the exchange's wallet, to the cent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import ConfigError, SafetyError
from agent.core.events import (
    AccountSnapshot,
    Command,
    Event,
    Fill,
    Kline,
    News,
    Order,
    OrderStatus,
    OrderUpdate,
    RiskState,
)
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from agent.core.venue import VenueExchange
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.credentials import Credentials
from agent.live.gateway.in_flight_order import IntentState
from agent.live.gateway.venue_gateway import Gateway
from agent.live.gateway.venue_port import OutcomeUnknown, RateLimited
from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.faults import parse_fault
from agent.system.secret import Secret
from tests.live.gateway.churning_strategy import FAST, venue_settings
from tests.sandbox.conftest import SandboxClient, write_bars
from tests.support.live import settings, until

KEYS = Credentials(Secret("key"), Secret("secret"))


class Obedient(Strategy):
    """Wants what the headlines say."""

    def on_news(self, news: News, market: Market) -> None:
        self.target("BTCUSDT", **json.loads(news.title))


class Desk:
    """A core and its gateway: events are handled as they come, and decisions go out at once."""

    def __init__(self, sandbox: Sandbox, config: Config, journal: Sequence[Event] = ()) -> None:
        self.sandbox = sandbox
        self.sink = ListSink()
        self.engine = Engine(
            config, Obedient(), self.sink, run_id="run", exchange=config.execution.exchange()
        )
        self.journal: list[Event] = []
        ledger = self.engine.exchange
        assert isinstance(ledger, VenueExchange)
        self.ledger = ledger
        for event in journal:
            self.hear(event)
        self._told = len(self.sink.decisions)
        self.port = BybitPort(config.execution.testnet, config.market.category, KEYS, sandbox.clock)
        self.gateway = Gateway(config, self.port, ledger, sandbox.clock, rng=random.Random(1))

    def hear(self, event: Event) -> None:
        self.journal.append(event)
        self.engine.handle(event)

    def emit(self, event: Event) -> None:
        """From the gateway, or by hand: journalled, handled, committed, released."""
        self.gateway.event(len(self.journal), event)
        self.hear(event)
        for decision in self.sink.decisions[self._told :]:
            self.gateway.decision(len(self.journal), decision)
        self._told = len(self.sink.decisions)
        self.gateway.release()

    def bar(self, close: float = 50_000.0) -> None:
        """A closed bar, on which targets are looked at."""
        now = self.sandbox.clock.now()
        start = max(self.engine.states["BTCUSDT"].next_start, 0) or now // 60_000 * 60_000
        self.emit(Kline("BTCUSDT", 60_000, start, start + 60_000, now, close, close, close, close, 1.0))

    def want(self, weight: float, **more: Any) -> None:
        """Let the strategy ask for an exposure."""
        now = self.sandbox.clock.now()
        self.emit(News(f"n{len(self.journal)}", now, now, json.dumps({"weight": weight, **more})))

    def target(self, weight: float, **more: Any) -> Order:
        """Ask for an exposure; the order that it leads to."""
        before = len(self.orders)
        self.want(weight, **more)
        assert len(self.orders) == before + 1, self.sink.decisions[-3:]
        return self.orders[-1]

    @property
    def orders(self) -> list[Order]:
        return [one for one in self.sink.decisions if isinstance(one, Order)]

    def ends(self) -> dict[str, OrderStatus]:
        """How each order ended, as the core was told."""
        return {
            one.order_id: one.status
            for one in self.sink.decisions
            if isinstance(one, OrderUpdate) and one.status.final
        }

    async def ended(self, order: Order) -> OrderStatus:
        await until(
            lambda: order.id in self.ends() and self.gateway.health.intents == {} and not self.gateway._outbox
        )
        return self.ends()[order.id]

    async def reconciled(self) -> None:
        """The account, looked at after now, agrees with the ledger."""
        seen = len([e for e in self.journal if isinstance(e, AccountSnapshot)])
        await until(lambda: len([e for e in self.journal if isinstance(e, AccountSnapshot)]) > seen)

    def assert_sound(self) -> None:
        venue = self.sandbox.venue.account
        assert f"{venue.wallet.balances()[0].wallet - self.ledger.wallet():.2f}" in ("0.00", "-0.00")
        held = sum((leg.held.qty for leg in venue.books["linear"].open_legs()), Decimal(0))
        assert self.ledger.held("BTCUSDT") == held
        fills = [one.id for one in self.sink.decisions if isinstance(one, Fill)]
        assert sorted(fills) == sorted(
            {one.id for one in venue.executions if one.order is not None and one.order.link}
        )
        links = [order.link for order in venue.orders.values() if order.link]
        assert len(links) == len(set(links))
        assert not self.ledger.drift

    @asynccontextmanager
    async def trading(self) -> AsyncIterator[Desk]:
        """The gateway runs, and has reconciled."""
        life = asyncio.create_task(self.gateway.run(self.emit))
        try:
            await self.gateway.begun()
            self.bar()
            yield self
        finally:
            life.cancel()
            await asyncio.wait([life])


@asynccontextmanager
async def desk(
    tmp_path: Path, *, execution: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Desk]:
    """A sandbox in which BTCUSDT stays at 50,000, and a desk."""
    file = write_bars(tmp_path / "BTCUSDT-1m.csv", [50_000.0] * 400)
    given = {
        "klines": (file,),
        "api_key": "key",
        "api_secret": "secret",
        "ip_limit": 10**6,
        "socket_limit": 10**6,
        **more,
    }
    async with Sandbox(SandboxOptions(**given)) as sandbox:
        yield Desk(sandbox, config_for(sandbox, tmp_path, execution or {}))


def config_for(sandbox: Sandbox, tmp_path: Path, execution: dict[str, Any]) -> Config:
    sections = venue_settings(sandbox.rest_url, execution=execution)
    return settings(sandbox.rest_url, tmp_path, market={"symbols": ["BTCUSDT"]}, **sections)


class Row(NamedTuple):
    """Faults in force while an order is placed; what health counts afterwards at least, and how the order must end."""

    faults: tuple[str, ...]
    counts: dict[str, int] = {}
    end: OrderStatus = OrderStatus.FILLED


CREATE = "rest/v5/order/create"
ROWS = {
    "all is well": Row(()),
    "a time-out at the venue that did nothing is asked after, and sent again": Row(
        (f"retcode,on={CREATE},code=10000,count=1",), {"unknown": 1, "resent": 1}
    ),
    "a time-out at the venue that did place it is found, and not sent again": Row(
        (f"lost,on={CREATE},code=10000,count=1",), {"unknown": 1}
    ),
    "one that the venue's views don't show yet is sent again, and existed": Row(
        (f"lost,on={CREATE},code=10000,count=1", "lag,on=rest/v5/*/list,ms=600", "drop,on=ws/private/*"),
        {"unknown": 1, "resent": 1, "existed": 1},
    ),
    "a connection that is cut without an answer": Row(
        (f"close,on={CREATE},count=2",), {"unknown": 2, "resent": 2}
    ),
    "an answer that comes too late": Row(
        (f"timeout,on={CREATE},ms=1500,count=1",), {"unknown": 1, "resent": 1}
    ),
    "an answer that can't be read": Row((f"corrupt,on={CREATE},count=1",), {"unknown": 1}),
    "an answer of a proxy": Row((f"status,on={CREATE},code=502,count=1",), {"unknown": 1, "resent": 1}),
    "a server error": Row((f"retcode,on={CREATE},code=10016,count=1",), {"unknown": 1, "resent": 1}),
    "too many visits: the same again, later": Row(
        (f"retcode,on={CREATE},code=10006,count=2",), {"slowed": 2, "sent": 3}
    ),
    "an address that is shut out is silent for as long as that takes": Row(
        (f"status,on={CREATE},code=403,count=1",), {"slowed": 1, "sent": 2}
    ),
    "a request outside the venue's window: the clock is set, and the same sent again": Row(
        (f"retcode,on={CREATE},code=10002,count=1",), {"sent": 2}
    ),
    "a refusal": Row((f"retcode,on={CREATE},code=110007,count=1",), {"sent": 1}, OrderStatus.REJECTED),
    "nothing is told by the stream": Row(("drop,on=ws/private/*",)),
    "all is told twice": Row(("duplicate,on=ws/private/*",)),
    "fills are told before the order, and the order before its acknowledgement": Row(
        ("reorder,on=ws/private/*", f"delay,on={CREATE},ms=1")
    ),
    "what is told can't be read": Row(("corrupt,on=ws/private/*",)),
    "the stream is cut": Row(("close,on=ws/private/*,count=1",), {"reconnects": 1}),
    "there is no stream": Row(
        ("close,on=ws/private/*,count=1", "status,on=ws/private/connect,code=500"), {"errors": 1}
    ),
    "executions are not listed yet": Row(("drop,on=ws/private/*", "lag,on=rest/v5/execution/list,ms=600")),
}


@pytest.mark.parametrize("name", ROWS)
async def test_an_order_is_placed_once_whatever_happens(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    async with desk(tmp_path) as given, given.trading():
        given.sandbox.venue.faults.add([parse_fault(text) for text in row.faults])
        entry = given.target(0.1)
        assert await given.ended(entry) is row.end
        health = given.gateway.health
        assert {key: min(getattr(health, key), least) for key, least in row.counts.items()} == row.counts
        if row.end is OrderStatus.FILLED:
            assert await given.ended(given.target(0.0)) is OrderStatus.FILLED
            assert given.ledger.held("BTCUSDT") == 0
        given.sandbox.venue.faults.clear()
        await given.reconciled()
        given.assert_sound()


async def test_an_execution_that_the_stream_left_out_is_found_although_later_ones_were_told(
    tmp_path: Path,
) -> None:
    async with (
        desk(tmp_path, execution={"overlap": "0ms", "reconcile_every": "1h"}) as given,
        given.trading(),
    ):
        given.sandbox.venue.faults.add([parse_fault("drop,on=ws/private/execution,count=1")])
        entry = given.target(0.1)
        await until(lambda: entry.id in given.ends())
        given.want(0.2)  # which may have to wait until the entry's last fill is known
        await until(lambda: len(given.orders) == 2)
        out = given.orders[-1]
        assert await given.ended(out) is OrderStatus.FILLED
        await until(lambda: given.ledger.held("BTCUSDT") == entry.qty + out.qty)
        given.assert_sound()


async def test_what_protects_a_position_follows_it_and_goes_with_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as given, given.trading():
        entry = given.target(0.1, stop=-0.05, take_profit=0.05)
        await until(lambda: entry.id in given.ends())
        await until(lambda: given.gateway.health.intents == {"accepted": 2})
        held = given.ledger.held("BTCUSDT")
        await until(lambda: {o.qty for o in given.sandbox.venue.account.open.values()} == {held})
        assert {o.link for o in given.sandbox.venue.account.open.values()} == {o.id for o in given.orders[1:]}
        out = given.target(0.0)
        assert await given.ended(out) is OrderStatus.FILLED
        assert not given.sandbox.venue.account.open
        assert [given.ends()[o.id] for o in given.orders[1:3]] == [OrderStatus.CANCELLED] * 2
        await given.reconciled()
        given.assert_sound()


async def test_protection_that_works_at_the_venue_grows_with_the_position(tmp_path: Path) -> None:
    async with desk(tmp_path) as given, given.trading():
        given.target(0.1, stop=-0.05, take_profit=0.05)
        await until(lambda: given.gateway.health.intents == {"accepted": 2})
        before = given.ledger.held("BTCUSDT")
        given.target(0.2)
        await until(lambda: given.ledger.held("BTCUSDT") > before)
        await until(
            lambda: (
                {o.qty for o in given.sandbox.venue.account.open.values()} == {given.ledger.held("BTCUSDT")}
            )
        )
        assert len(given.sandbox.venue.account.open) == 2
        await given.reconciled()
        given.assert_sound()


@pytest.mark.parametrize(
    "fault",
    ["", "retcode,on=rest/v5/order/cancel,code=10000,count=2", "lost,on=rest/v5/order/cancel,count=1"],
)
async def test_an_order_that_is_taken_back_ends(fault: str, tmp_path: Path) -> None:
    async with desk(tmp_path) as given, given.trading():
        given.sandbox.venue.faults.add([parse_fault(fault)] if fault else [])
        entry = given.target(0.1, limit=46_000.0)
        await until(lambda: given.gateway.health.intents == {"accepted": 1})
        given.want(0.0)
        assert await given.ended(entry) is OrderStatus.CANCELLED
        await given.reconciled()
        given.assert_sound()


@pytest.mark.parametrize("kind", ["SessionSettlePnL", "MovePosition", ""])
async def test_an_execution_of_an_unknown_kind_is_reported_and_never_booked(
    kind: str, tmp_path: Path
) -> None:
    """A settlement of profit states the whole position as its quantity: booked as a trade, it would double it."""
    async with desk(tmp_path) as given, given.trading():
        entry = given.target(0.1)
        assert await given.ended(entry) is OrderStatus.FILLED
        account = given.sandbox.venue.account
        held, fills = given.ledger.held("BTCUSDT"), given.gateway.health.fills
        strange = dataclasses.replace(account.executions[-1], kind=kind, id="strange-1")
        account.executions.append(strange)
        given.sandbox.venue.private.on_execution(strange)
        await until(lambda: given.gateway.health.unknown_executions == [kind or "without a kind"])
        await given.reconciled()
        assert (given.ledger.held("BTCUSDT"), given.gateway.health.fills) == (held, fills)


async def test_a_kill_takes_back_also_what_the_core_does_not_know(tmp_path: Path) -> None:
    async with desk(tmp_path, execution={"foreign": "adopt"}) as given, given.trading():
        given.target(0.1, limit=46_000.0)
        await trader(given).place_order(orderType="Limit", price="46000", qty="0.01")
        await until(lambda: len(given.sandbox.venue.account.open) == 2)
        now = given.sandbox.clock.now()
        given.emit(Command("kill", now, now, {}, "test"))
        await until(lambda: not given.sandbox.venue.account.open and given.gateway.health.intents == {})


# -- crashes -----------------------------------------------------------------------------------------------------------


async def again(given: Desk, tmp_path: Path, execution: dict[str, Any] | None = None) -> Desk:
    """Another process: the journal is all that is left."""
    return Desk(given.sandbox, config_for(given.sandbox, tmp_path, execution or {}), given.journal)


@pytest.mark.parametrize("sent", [True, False])
async def test_a_process_that_dies_after_the_decision_neither_loses_nor_doubles_it(
    sent: bool, tmp_path: Path
) -> None:
    async with desk(tmp_path) as given:
        async with given.trading():
            if not sent:
                given.gateway.release = lambda: None  # type: ignore[method-assign]
            else:
                given.sandbox.venue.faults.add(
                    [parse_fault(f"lost,on={CREATE},count=1"), parse_fault("drop,on=ws/private/*")]
                )
            entry = given.target(0.1)
            if sent:
                await until(lambda: given.gateway.health.unknown)
        given.sandbox.venue.faults.clear()
        reborn = await again(given, tmp_path)
        assert reborn.orders == given.orders
        async with reborn.trading():
            assert await reborn.ended(entry) is OrderStatus.FILLED
            await reborn.reconciled()
            reborn.assert_sound()
            assert len([o for o in given.sandbox.venue.account.orders.values() if o.link == entry.id]) == 1


async def test_an_intent_that_is_too_old_is_closed_instead_of_sent(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        async with given.trading():
            given.gateway.release = lambda: None  # type: ignore[method-assign]
            entry = given.target(0.1)
        reborn = await again(given, tmp_path, {"expire_after": "1ms", "recv_window": "200ms"})
        async with reborn.trading():
            assert await reborn.ended(entry) is OrderStatus.REJECTED
        assert not given.sandbox.venue.account.orders
        (update,) = [one for one in reborn.sink.decisions if isinstance(one, OrderUpdate)]
        assert update.reason == "could not be sent within 1ms of its decision"


async def test_an_order_that_reduces_a_position_is_sent_however_late_it_is(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        async with given.trading():
            assert await given.ended(given.target(0.1)) is OrderStatus.FILLED
            given.gateway.release = lambda: None  # type: ignore[method-assign]
            out = given.target(0.0)
            assert out.reduce_only
        reborn = await again(given, tmp_path, {"expire_after": "1ms"})  # both orders are older than that
        async with reborn.trading():
            assert await reborn.ended(out) is OrderStatus.FILLED
            assert reborn.ledger.held("BTCUSDT") == 0
            await reborn.reconciled()
            reborn.assert_sound()


async def test_fills_that_happened_meanwhile_are_booked(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        async with given.trading():
            given.sandbox.venue.faults.add(
                [parse_fault("drop,on=ws/private/*"), parse_fault("status,on=rest/v5/execution/*")]
            )
            given.target(0.1, stop=-0.05)
            await until(lambda: given.sandbox.venue.account.executions)
        given.sandbox.venue.faults.clear()
        reborn = await again(given, tmp_path)
        assert reborn.ledger.held("BTCUSDT") == 0
        async with reborn.trading():
            # its stop, which was never placed before
            await until(lambda: reborn.gateway.health.intents == {"accepted": 1})
            await reborn.reconciled()
            reborn.assert_sound()
            assert reborn.ledger.held("BTCUSDT") > 0


# -- the account -------------------------------------------------------------------------------------------------------


def trader(given: Desk) -> SandboxClient:
    """Somebody else with the same keys."""
    return SandboxClient(given.sandbox, _SESSIONS[-1])


_SESSIONS: list[Any] = []


@pytest.fixture(autouse=True)
async def session() -> AsyncIterator[None]:
    import aiohttp

    async with aiohttp.ClientSession() as opened:
        _SESSIONS.append(opened)
        yield
        _SESSIONS.pop()


async def test_an_account_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        await trader(given).place_order(qty="0.02")
        await until(lambda: given.sandbox.venue.account.executions)
        order = await trader(given).place_order(orderType="Limit", price="46000", qty="0.01")
        with pytest.raises(SafetyError, match=rf"the account is not empty: order {order}, 0.02 BTCUSDT"):
            async with given.trading():
                pass
        with pytest.raises(SafetyError):
            await given.gateway.begun()


async def test_a_position_is_adopted(tmp_path: Path) -> None:
    async with desk(tmp_path, execution={"foreign": "adopt"}) as given:
        await trader(given).place_order(qty="0.02")
        await until(lambda: given.sandbox.venue.account.executions)
        async with given.trading():
            assert given.ledger.held("BTCUSDT") == Decimal("0.02")
            assert given.engine.portfolio.positions["BTCUSDT"].qty == Decimal("0.02")
            assert await given.ended(given.target(0.0)) is OrderStatus.FILLED
            await given.reconciled()
            assert not given.ledger.drift
        assert not given.sandbox.venue.account.books["linear"].open_legs()


async def test_what_others_do_is_ignored_where_that_is_asked_for(tmp_path: Path) -> None:
    async with desk(tmp_path, execution={"foreign": "ignore"}) as given:
        await trader(given).place_order(qty="0.02")
        await until(lambda: given.sandbox.venue.account.executions)
        async with given.trading():
            assert given.engine.portfolio.positions["BTCUSDT"].qty == 0
            assert given.ledger.held("BTCUSDT") == Decimal("0.02")
            await trader(given).place_order(qty="0.03")
            await until(lambda: given.ledger.held("BTCUSDT") == Decimal("0.05"))
            assert given.engine.portfolio.positions["BTCUSDT"].qty == 0
            assert given.engine.risk.state is RiskState.ACTIVE
            assert await given.ended(given.target(0.1)) is OrderStatus.FILLED
            await given.reconciled()
            assert not given.ledger.drift


async def test_a_ledger_that_drifts_is_an_alarm_until_a_person_accepts_it(tmp_path: Path) -> None:
    async with desk(tmp_path, execution={"reconcile_every": "200ms"}) as given, given.trading():
        await trader(given).place_order(qty="0.02")  # by another hand, which this account does not allow
        await until(lambda: given.engine.risk.state is RiskState.REDUCING)
        assert given.engine.risk.rule == "drift"
        assert "BTCUSDT: 0.02" in given.engine.risk.detail
        assert given.gateway.health.drift
        now = given.sandbox.clock.now()
        given.emit(Command("resume", now, now, {}, "test"))
        await until(lambda: given.engine.risk.state is RiskState.ACTIVE and not given.ledger.drift)
        assert given.engine.portfolio.positions["BTCUSDT"].qty == Decimal("0.02")


async def test_nothing_is_opened_before_the_account_is_known(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        given.bar()
        given.want(0.1)
        assert not given.orders
        assert given.engine.risk.unreconciled


@pytest.mark.parametrize("ahead", [400, -400])
async def test_a_clock_that_is_off_is_corrected(ahead: int, tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        given.sandbox.venue.faults.add([parse_fault(f"skew,ms={ahead * 10}")])
        async with given.trading():
            assert abs(given.gateway.health.skew - ahead * 10) < 500
            assert await given.ended(given.target(0.1)) is OrderStatus.FILLED


async def test_a_clock_that_is_far_off_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path, execution={"max_skew": "3s"}) as given:
        given.sandbox.venue.faults.add([parse_fault("skew,ms=5000")])
        with pytest.raises(SafetyError, match=r"clock is [0-9]+ ms behind the venue's"):
            async with given.trading():
                pass


async def test_rules_that_the_venue_does_not_have_are_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        config = settings(
            given.sandbox.rest_url, tmp_path, market={"symbols": ["BTCUSDT"]},
            instruments={"BTCUSDT": {"qty_step": "0.0001"}}, **venue_settings(given.sandbox.rest_url),
        )  # fmt: skip
        with pytest.raises(
            ConfigError, match=r'BTCUSDT.qty_step is 0.0001, .* multiples of 0.001 .write qty_step = "0.001"'
        ):
            async with Desk(given.sandbox, config).trading():
                pass


async def test_hedge_mode_is_left_where_that_is_possible_and_refused_where_not(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        mode = {"category": "linear", "symbol": "BTCUSDT", "mode": 3}
        assert (await trader(given).post("/v5/position/switch-mode", **mode))["retCode"] == 0
        async with given.trading():
            assert not given.sandbox.venue.account.hedged
        assert (await trader(given).post("/v5/position/switch-mode", **mode))["retCode"] == 0
        await trader(given).place_order(qty="0.02", positionIdx=1)
        await until(lambda: given.sandbox.venue.account.executions)
        with pytest.raises(SafetyError, match="BTCUSDT is in hedge mode"):
            async with (await again(given, tmp_path)).trading():
                pass


async def test_an_interruption_doubts_the_account_and_goes_on(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        async with given.trading():
            given.target(0.1, limit=46_000.0)
            await until(lambda: given.gateway.health.intents == {IntentState.ACCEPTED.value: 1})
        async with given.trading():
            await given.reconciled()
            assert [e.action for e in given.journal if isinstance(e, Command)] == ["reconciling"]
            assert given.gateway.health.intents == {"accepted": 1}
            given.assert_sound()


async def test_spot_fees_in_base_coin_are_a_smaller_holding(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        config = settings(
            given.sandbox.rest_url, tmp_path, market={"symbols": ["BTCUSDT"], "category": "spot"},
            **venue_settings(given.sandbox.rest_url),
        )  # fmt: skip
        spot = Desk(given.sandbox, config)
        async with spot.trading():
            entry = spot.target(0.1)
            assert await spot.ended(entry) is OrderStatus.FILLED
            assert entry.qty * Decimal("0.998") < spot.ledger.held("BTCUSDT") < entry.qty
            await spot.reconciled()
            assert not spot.ledger.drift
            assert await spot.ended(spot.target(0.0)) is OrderStatus.FILLED
            await spot.reconciled()
            assert not spot.ledger.drift
        wallet = given.sandbox.venue.account.wallet
        assert f"{wallet.balances()[0].wallet:.2f}" == f"{spot.ledger.wallet():.2f}"
        assert wallet.holdings("BTC") == spot.ledger.held("BTCUSDT")


# -- errors of the port ------------------------------------------------------------------------------------------------


async def test_headers_say_how_often_one_may_ask(tmp_path: Path) -> None:
    async with desk(tmp_path) as given:
        await asyncio.gather(*(given.port.wallet() for _ in range(40)))  # 50 a second
        assert given.port._limits["/v5/account/wallet-balance"] == 50
        given.sandbox.venue.faults.add([parse_fault("status,on=rest/v5/account/*,code=403,count=1")])
        with pytest.raises(RateLimited) as banned:
            await given.port.wallet()
        assert banned.value.banned
        given.sandbox.venue.faults.add([parse_fault("truncate,on=rest/v5/account/*,count=1")])
        with pytest.raises(OutcomeUnknown):
            await given.port.wallet()
        await given.port.close()


assert FAST["settle"] == "300ms"  # rows rely on views that lag longer
