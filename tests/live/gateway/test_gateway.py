"""Orders under faults of the venue, the network and the process, each in one row, against the sandbox.

A gateway trades for a core that the test feeds. At the end of each row the ledger agrees with the wallet to
the cent.
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
from agent.live.gateway.in_flight_order import InFlightState
from agent.live.gateway.venue_gateway import VenueGateway
from agent.live.gateway.venue_port import OutcomeUnknown, RateLimited
from agent.sandbox import Sandbox, SandboxOptions
from agent.sandbox.faults import parse_fault
from agent.system.secret import Secret
from tests.live.gateway.churning_strategy import FAST, venue_settings
from tests.sandbox.conftest import SandboxClient, write_bars
from tests.support.live import settings, until

KEYS = Credentials(Secret("key"), Secret("secret"))


class ScriptedStrategy(Strategy):
    """Sets the target that a headline contains as JSON."""

    def on_news(self, news: News, market: Market) -> None:
        self.target("BTCUSDT", **json.loads(news.title))


class GatewayHarness:
    """A core and its gateway: each event is handled, committed and released at once."""

    def __init__(self, sandbox: Sandbox, config: Config, journal: Sequence[Event] = ()) -> None:
        self.sandbox = sandbox
        self.sink = ListSink()
        self.engine = Engine(
            config, ScriptedStrategy(), self.sink, run_id="run", exchange=config.execution.exchange()
        )
        self.journal: list[Event] = []
        exchange = self.engine.exchange
        assert isinstance(exchange, VenueExchange)
        self.exchange = exchange
        for event in journal:
            self.handle(event)
        self._released = len(self.sink.decisions)
        self.port = BybitPort(config.execution.testnet, config.market.category, KEYS, sandbox.clock)
        past, state = exchange.open_state(), exchange.account_state
        self.gateway = VenueGateway(config, self.port, past, state, sandbox.clock, rng=random.Random(1))

    def handle(self, event: Event) -> None:
        self.journal.append(event)
        self.engine.handle(event)

    def emit(self, event: Event) -> None:
        """Journal an event of the gateway or the test, handle it, commit and release."""
        self.gateway.event(len(self.journal), event)
        self.handle(event)
        for decision in self.sink.decisions[self._released :]:
            self.gateway.decision(len(self.journal), decision)
        self._released = len(self.sink.decisions)
        self.gateway.release()

    def bar(self, close: float = 50_000.0) -> None:
        """Emit a closed bar, on which targets become orders."""
        now = self.sandbox.clock.now()
        start = max(self.engine.states["BTCUSDT"].next_start, 0) or now // 60_000 * 60_000
        self.emit(Kline("BTCUSDT", 60_000, start, start + 60_000, now, close, close, close, close, 1.0))

    def want(self, weight: float, **more: Any) -> None:
        """Set a target exposure."""
        now = self.sandbox.clock.now()
        self.emit(News(f"n{len(self.journal)}", now, now, json.dumps({"weight": weight, **more})))

    def target(self, weight: float, **more: Any) -> Order:
        """Set a target exposure; return the order that it leads to."""
        before = len(self.orders)
        self.want(weight, **more)
        assert len(self.orders) == before + 1, self.sink.decisions[-3:]
        return self.orders[-1]

    @property
    def orders(self) -> list[Order]:
        return [one for one in self.sink.decisions if isinstance(one, Order)]

    def ends(self) -> dict[str, OrderStatus]:
        """Return the final status of each order by the core's decisions."""
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
        """Wait for an account snapshot that is taken after now."""
        seen = len([e for e in self.journal if isinstance(e, AccountSnapshot)])
        await until(lambda: len([e for e in self.journal if isinstance(e, AccountSnapshot)]) > seen)

    def assert_sound(self) -> None:
        venue = self.sandbox.venue.account
        assert f"{venue.wallet.balances()[0].wallet - self.exchange.wallet():.2f}" in ("0.00", "-0.00")
        held = sum((leg.held.qty for leg in venue.books["linear"].open_legs()), Decimal(0))
        assert self.exchange.held("BTCUSDT") == held
        fills = [one.id for one in self.sink.decisions if isinstance(one, Fill)]
        assert sorted(fills) == sorted(
            {one.id for one in venue.executions if one.order is not None and one.order.link}
        )
        links = [order.link for order in venue.orders.values() if order.link]
        assert len(links) == len(set(links))
        assert not self.exchange.drift

    @asynccontextmanager
    async def trading(self) -> AsyncIterator[GatewayHarness]:
        """Run the gateway, reconciled."""
        life = asyncio.create_task(self.gateway.run(self.emit))
        try:
            await self.gateway.begun()
            self.bar()
            yield self
        finally:
            life.cancel()
            await asyncio.wait([life])


@asynccontextmanager
async def gateway_harness(
    tmp_path: Path, *, execution: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[GatewayHarness]:
    """A gateway at a sandbox in which BTCUSDT stays at 50,000."""
    file = write_bars(tmp_path / "BTCUSDT-1m.csv", [50_000.0] * 400)
    options = {
        "klines": (file,),
        "api_key": "key",
        "api_secret": "secret",
        "ip_limit": 10**6,
        "socket_limit": 10**6,
        **more,
    }
    async with Sandbox(SandboxOptions(**options)) as sandbox:
        yield GatewayHarness(sandbox, config_for(sandbox, tmp_path, execution or {}))


def config_for(sandbox: Sandbox, tmp_path: Path, execution: dict[str, Any]) -> Config:
    sections = venue_settings(sandbox.rest_url, execution=execution)
    return settings(sandbox.rest_url, tmp_path, market={"symbols": ["BTCUSDT"]}, **sections)


class Row(NamedTuple):
    """Faults while an order is placed, minimal counts of the health afterwards, and the final status."""

    faults: tuple[str, ...]
    counts: dict[str, int] = {}
    end: OrderStatus = OrderStatus.FILLED


CREATE = "rest/v5/order/create"
ROWS = {
    "no fault": Row(()),
    "a timeout of an order that was not placed: it is queried and sent again": Row(
        (f"retcode,on={CREATE},code=10000,count=1",), {"unknown": 1, "resent": 1}
    ),
    "a timeout of an order that was placed: it is found and not sent again": Row(
        (f"lost,on={CREATE},code=10000,count=1",), {"unknown": 1}
    ),
    "an order that lagging views don't show is sent again, and existed": Row(
        (f"lost,on={CREATE},code=10000,count=1", "lag,on=rest/v5/*/list,ms=600", "drop,on=ws/private/*"),
        {"unknown": 1, "resent": 1, "existed": 1},
    ),
    "a connection that is closed without a response": Row(
        (f"close,on={CREATE},count=2",), {"unknown": 2, "resent": 2}
    ),
    "a response that comes too late": Row(
        (f"timeout,on={CREATE},ms=1500,count=1",), {"unknown": 1, "resent": 1}
    ),
    "an unreadable response": Row((f"corrupt,on={CREATE},count=1",), {"unknown": 1}),
    "a response of a proxy": Row((f"status,on={CREATE},code=502,count=1",), {"unknown": 1, "resent": 1}),
    "a server error": Row((f"retcode,on={CREATE},code=10016,count=1",), {"unknown": 1, "resent": 1}),
    "a rate limit: the same request again, later": Row(
        (f"retcode,on={CREATE},code=10006,count=2",), {"slowed": 2, "sent": 3}
    ),
    "a ban: no request until it is over": Row(
        (f"status,on={CREATE},code=403,count=1",), {"slowed": 1, "sent": 2}
    ),
    "a request outside the venue's window: the clock is synchronised, and it is sent again": Row(
        (f"retcode,on={CREATE},code=10002,count=1",), {"sent": 2}
    ),
    "a rejection": Row((f"retcode,on={CREATE},code=110007,count=1",), {"sent": 1}, OrderStatus.REJECTED),
    "a stream without messages": Row(("drop,on=ws/private/*",)),
    "a stream that repeats every message": Row(("duplicate,on=ws/private/*",)),
    "fills before the order update, and the update before the acknowledgement": Row(
        ("reorder,on=ws/private/*", f"delay,on={CREATE},ms=1")
    ),
    "a stream with unreadable messages": Row(("corrupt,on=ws/private/*",)),
    "a stream that is closed": Row(("close,on=ws/private/*,count=1",), {"reconnects": 1}),
    "no stream": Row(
        ("close,on=ws/private/*,count=1", "status,on=ws/private/connect,code=500"), {"errors": 1}
    ),
    "executions that are listed late": Row(("drop,on=ws/private/*", "lag,on=rest/v5/execution/list,ms=600")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
async def test_an_order_is_placed_once_under_every_fault(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.sandbox.venue.faults.add([parse_fault(text) for text in row.faults])
        entry = harness.target(0.1)
        assert await harness.ended(entry) is row.end
        health = harness.gateway.health
        assert {key: min(getattr(health, key), least) for key, least in row.counts.items()} == row.counts
        if row.end is OrderStatus.FILLED:
            assert await harness.ended(harness.target(0.0)) is OrderStatus.FILLED
            assert harness.exchange.held("BTCUSDT") == 0
        harness.sandbox.venue.faults.clear()
        await harness.reconciled()
        harness.assert_sound()


async def test_an_execution_missing_in_the_stream_is_fetched_although_later_ones_were_reported(
    tmp_path: Path,
) -> None:
    async with (
        gateway_harness(tmp_path, execution={"overlap": "0ms", "reconcile_every": "1h"}) as harness,
        harness.trading(),
    ):
        harness.sandbox.venue.faults.add([parse_fault("drop,on=ws/private/execution,count=1")])
        entry = harness.target(0.1)
        await until(lambda: entry.id in harness.ends())
        harness.want(0.2)  # it may have to wait for the entry's last fill
        await until(lambda: len(harness.orders) == 2)
        out = harness.orders[-1]
        assert await harness.ended(out) is OrderStatus.FILLED
        await until(lambda: harness.exchange.held("BTCUSDT") == entry.qty + out.qty)
        harness.assert_sound()


async def test_protective_orders_follow_the_position_and_end_with_it(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        entry = harness.target(0.1, stop=-0.05, take_profit=0.05)
        await until(lambda: entry.id in harness.ends())
        await until(lambda: harness.gateway.health.intents == {"accepted": 2})
        held = harness.exchange.held("BTCUSDT")
        await until(lambda: {o.qty for o in harness.sandbox.venue.account.open.values()} == {held})
        assert {o.link for o in harness.sandbox.venue.account.open.values()} == {
            o.id for o in harness.orders[1:]
        }
        out = harness.target(0.0)
        assert await harness.ended(out) is OrderStatus.FILLED
        assert not harness.sandbox.venue.account.open
        assert [harness.ends()[o.id] for o in harness.orders[1:3]] == [OrderStatus.CANCELLED] * 2
        await harness.reconciled()
        harness.assert_sound()


async def test_protective_orders_at_the_venue_grow_with_the_position(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.target(0.1, stop=-0.05, take_profit=0.05)
        await until(lambda: harness.gateway.health.intents == {"accepted": 2})
        before = harness.exchange.held("BTCUSDT")
        harness.target(0.2)
        await until(lambda: harness.exchange.held("BTCUSDT") > before)
        await until(
            lambda: (
                {o.qty for o in harness.sandbox.venue.account.open.values()}
                == {harness.exchange.held("BTCUSDT")}
            )
        )
        assert len(harness.sandbox.venue.account.open) == 2
        await harness.reconciled()
        harness.assert_sound()


@pytest.mark.parametrize(
    "fault",
    ["", "retcode,on=rest/v5/order/cancel,code=10000,count=2", "lost,on=rest/v5/order/cancel,count=1"],
)
async def test_a_cancelled_order_ends(fault: str, tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness, harness.trading():
        harness.sandbox.venue.faults.add([parse_fault(fault)] if fault else [])
        entry = harness.target(0.1, limit=46_000.0)
        await until(lambda: harness.gateway.health.intents == {"accepted": 1})
        harness.want(0.0)
        assert await harness.ended(entry) is OrderStatus.CANCELLED
        await harness.reconciled()
        harness.assert_sound()


@pytest.mark.parametrize("kind", ["SessionSettlePnL", "MovePosition", ""])
async def test_an_execution_of_an_unknown_kind_is_reported_and_never_booked(
    kind: str, tmp_path: Path
) -> None:
    """The quantity of a profit settlement is the whole position: booked as a trade, it would double it."""
    async with gateway_harness(tmp_path) as harness, harness.trading():
        entry = harness.target(0.1)
        assert await harness.ended(entry) is OrderStatus.FILLED
        account = harness.sandbox.venue.account
        held, fills = harness.exchange.held("BTCUSDT"), harness.gateway.health.fills
        strange = dataclasses.replace(account.executions[-1], kind=kind, id="strange-1")
        account.executions.append(strange)
        harness.sandbox.venue.private.on_execution(strange)
        await until(lambda: harness.gateway.health.unknown_executions == [kind or "without a kind"])
        await harness.reconciled()
        assert (harness.exchange.held("BTCUSDT"), harness.gateway.health.fills) == (held, fills)


async def test_a_kill_cancels_orders_that_the_core_does_not_know(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path, execution={"foreign": "adopt"}) as harness, harness.trading():
        harness.target(0.1, limit=46_000.0)
        await trader(harness).place_order(orderType="Limit", price="46000", qty="0.01")
        await until(lambda: len(harness.sandbox.venue.account.open) == 2)
        now = harness.sandbox.clock.now()
        harness.emit(Command("kill", now, now, {}, "test"))
        await until(lambda: not harness.sandbox.venue.account.open and harness.gateway.health.intents == {})


# -- crashes -------------------------------------------------------------------------------------------------


async def again(
    harness: GatewayHarness, tmp_path: Path, execution: dict[str, Any] | None = None
) -> GatewayHarness:
    """Start another process from the journal."""
    return GatewayHarness(
        harness.sandbox, config_for(harness.sandbox, tmp_path, execution or {}), harness.journal
    )


@pytest.mark.parametrize("sent", [True, False])
async def test_a_crash_after_the_decision_neither_loses_nor_duplicates_the_order(
    sent: bool, tmp_path: Path
) -> None:
    async with gateway_harness(tmp_path) as harness:
        async with harness.trading():
            if not sent:
                harness.gateway.release = lambda: None  # type: ignore[method-assign]
            else:
                harness.sandbox.venue.faults.add(
                    [parse_fault(f"lost,on={CREATE},count=1"), parse_fault("drop,on=ws/private/*")]
                )
            entry = harness.target(0.1)
            if sent:
                await until(lambda: harness.gateway.health.unknown)
        harness.sandbox.venue.faults.clear()
        restarted = await again(harness, tmp_path)
        assert restarted.orders == harness.orders
        async with restarted.trading():
            assert await restarted.ended(entry) is OrderStatus.FILLED
            await restarted.reconciled()
            restarted.assert_sound()
            assert len([o for o in harness.sandbox.venue.account.orders.values() if o.link == entry.id]) == 1


async def test_an_expired_order_is_rejected_instead_of_sent(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        async with harness.trading():
            harness.gateway.release = lambda: None  # type: ignore[method-assign]
            entry = harness.target(0.1)
        restarted = await again(harness, tmp_path, {"expire_after": "1ms", "recv_window": "200ms"})
        async with restarted.trading():
            assert await restarted.ended(entry) is OrderStatus.REJECTED
        assert not harness.sandbox.venue.account.orders
        (update,) = [one for one in restarted.sink.decisions if isinstance(one, OrderUpdate)]
        assert update.reason == "could not be sent within 1ms of its decision"


async def test_an_order_that_reduces_a_position_never_expires(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        async with harness.trading():
            assert await harness.ended(harness.target(0.1)) is OrderStatus.FILLED
            harness.gateway.release = lambda: None  # type: ignore[method-assign]
            out = harness.target(0.0)
            assert out.reduce_only
        restarted = await again(harness, tmp_path, {"expire_after": "1ms"})  # both orders are older than that
        async with restarted.trading():
            assert await restarted.ended(out) is OrderStatus.FILLED
            assert restarted.exchange.held("BTCUSDT") == 0
            await restarted.reconciled()
            restarted.assert_sound()


async def test_fills_during_a_crash_are_booked(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        async with harness.trading():
            harness.sandbox.venue.faults.add(
                [parse_fault("drop,on=ws/private/*"), parse_fault("status,on=rest/v5/execution/*")]
            )
            harness.target(0.1, stop=-0.05)
            await until(lambda: harness.sandbox.venue.account.executions)
        harness.sandbox.venue.faults.clear()
        restarted = await again(harness, tmp_path)
        assert restarted.exchange.held("BTCUSDT") == 0
        async with restarted.trading():
            # the entry's stop, which had not been placed
            await until(lambda: restarted.gateway.health.intents == {"accepted": 1})
            await restarted.reconciled()
            restarted.assert_sound()
            assert restarted.exchange.held("BTCUSDT") > 0


# -- the account ---------------------------------------------------------------------------------------------


def trader(harness: GatewayHarness) -> SandboxClient:
    """Another program with the same keys."""
    return SandboxClient(harness.sandbox, _SESSIONS[-1])


_SESSIONS: list[Any] = []


@pytest.fixture(autouse=True)
async def session() -> AsyncIterator[None]:
    import aiohttp

    async with aiohttp.ClientSession() as opened:
        _SESSIONS.append(opened)
        yield
        _SESSIONS.pop()


async def test_an_account_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        await trader(harness).place_order(qty="0.02")
        await until(lambda: harness.sandbox.venue.account.executions)
        order = await trader(harness).place_order(orderType="Limit", price="46000", qty="0.01")
        with pytest.raises(SafetyError, match=rf"the account is not empty: order {order}, 0.02 BTCUSDT"):
            async with harness.trading():
                pass
        with pytest.raises(SafetyError):
            await harness.gateway.begun()


async def test_a_position_is_adopted(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path, execution={"foreign": "adopt"}) as harness:
        await trader(harness).place_order(qty="0.02")
        await until(lambda: harness.sandbox.venue.account.executions)
        async with harness.trading():
            assert harness.exchange.held("BTCUSDT") == Decimal("0.02")
            assert harness.engine.portfolio.positions["BTCUSDT"].qty == Decimal("0.02")
            assert await harness.ended(harness.target(0.0)) is OrderStatus.FILLED
            await harness.reconciled()
            assert not harness.exchange.drift
        assert not harness.sandbox.venue.account.books["linear"].open_legs()


async def test_trades_of_others_are_ignored_if_so_configured(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path, execution={"foreign": "ignore"}) as harness:
        await trader(harness).place_order(qty="0.02")
        await until(lambda: harness.sandbox.venue.account.executions)
        async with harness.trading():
            assert harness.engine.portfolio.positions["BTCUSDT"].qty == 0
            assert harness.exchange.held("BTCUSDT") == Decimal("0.02")
            await trader(harness).place_order(qty="0.03")
            await until(lambda: harness.exchange.held("BTCUSDT") == Decimal("0.05"))
            assert harness.engine.portfolio.positions["BTCUSDT"].qty == 0
            assert harness.engine.risk.state is RiskState.ACTIVE
            assert await harness.ended(harness.target(0.1)) is OrderStatus.FILLED
            await harness.reconciled()
            assert not harness.exchange.drift


async def test_a_drift_is_an_alarm_until_an_operator_resumes(tmp_path: Path) -> None:
    async with (
        gateway_harness(tmp_path, execution={"reconcile_every": "200ms"}) as harness,
        harness.trading(),
    ):
        await trader(harness).place_order(qty="0.02")  # by another program, which `foreign` does not allow
        await until(lambda: harness.engine.risk.state is RiskState.REDUCING)
        assert harness.engine.risk.rule == "drift"
        assert "BTCUSDT: 0.02" in harness.engine.risk.detail
        assert harness.gateway.health.drift
        now = harness.sandbox.clock.now()
        harness.emit(Command("resume", now, now, {}, "test"))
        await until(lambda: harness.engine.risk.state is RiskState.ACTIVE and not harness.exchange.drift)
        assert harness.engine.portfolio.positions["BTCUSDT"].qty == Decimal("0.02")


async def test_no_position_is_opened_before_the_account_is_known(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        harness.bar()
        harness.want(0.1)
        assert not harness.orders
        assert not harness.engine.risk.reconciled


@pytest.mark.parametrize("ahead", [400, -400])
async def test_a_skewed_clock_is_corrected(ahead: int, tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        harness.sandbox.venue.faults.add([parse_fault(f"skew,ms={ahead * 10}")])
        async with harness.trading():
            assert abs(harness.gateway.health.skew - ahead * 10) < 500
            assert await harness.ended(harness.target(0.1)) is OrderStatus.FILLED


async def test_a_clock_beyond_max_skew_is_refused(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path, execution={"max_skew": "3s"}) as harness:
        harness.sandbox.venue.faults.add([parse_fault("skew,ms=5000")])
        with pytest.raises(SafetyError, match=r"clock is [0-9]+ ms behind the venue's"):
            async with harness.trading():
                pass


async def test_trading_rules_that_the_venue_would_reject_are_refused(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        url, instruments = harness.sandbox.rest_url, {"BTCUSDT": {"qty_step": "0.0001"}}
        sections = venue_settings(url, market={"symbols": ["BTCUSDT"]}, instruments=instruments)
        config = settings(url, tmp_path, **sections)
        with pytest.raises(
            ConfigError, match=r'BTCUSDT.qty_step is 0.0001, .* multiples of 0.001 .write qty_step = "0.001"'
        ):
            async with GatewayHarness(harness.sandbox, config).trading():
                pass


async def test_hedge_mode_is_switched_off_or_refused(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        mode = {"category": "linear", "symbol": "BTCUSDT", "mode": 3}
        assert (await trader(harness).post("/v5/position/switch-mode", **mode))["retCode"] == 0
        async with harness.trading():
            assert not harness.sandbox.venue.account.hedged
        assert (await trader(harness).post("/v5/position/switch-mode", **mode))["retCode"] == 0
        await trader(harness).place_order(qty="0.02", positionIdx=1)
        await until(lambda: harness.sandbox.venue.account.executions)
        with pytest.raises(SafetyError, match="BTCUSDT is in hedge mode"):
            async with (await again(harness, tmp_path)).trading():
                pass


async def test_an_interrupted_gateway_reconciles_again_and_continues(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        async with harness.trading():
            harness.target(0.1, limit=46_000.0)
            await until(lambda: harness.gateway.health.intents == {InFlightState.ACCEPTED.value: 1})
        async with harness.trading():
            await harness.reconciled()
            assert [e.action for e in harness.journal if isinstance(e, Command)] == ["reconciling"]
            assert harness.gateway.health.intents == {"accepted": 1}
            harness.assert_sound()


async def test_spot_fees_in_base_coin_reduce_the_holding(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        url, market = harness.sandbox.rest_url, {"symbols": ["BTCUSDT"], "category": "spot"}
        config = settings(url, tmp_path, **venue_settings(url, market=market))
        spot = GatewayHarness(harness.sandbox, config)
        async with spot.trading():
            entry = spot.target(0.1)
            assert await spot.ended(entry) is OrderStatus.FILLED
            assert entry.qty * Decimal("0.998") < spot.exchange.held("BTCUSDT") < entry.qty
            await spot.reconciled()
            assert not spot.exchange.drift
            assert await spot.ended(spot.target(0.0)) is OrderStatus.FILLED
            await spot.reconciled()
            assert not spot.exchange.drift
        wallet = harness.sandbox.venue.account.wallet
        assert f"{wallet.balances()[0].wallet:.2f}" == f"{spot.exchange.wallet():.2f}"
        assert wallet.holdings("BTC") == spot.exchange.held("BTCUSDT")


# -- errors of the port --------------------------------------------------------------------------------------


async def test_rate_limits_are_read_from_response_headers(tmp_path: Path) -> None:
    async with gateway_harness(tmp_path) as harness:
        await asyncio.gather(*(harness.port.wallet() for _ in range(40)))  # 50 a second
        assert harness.port._limits["/v5/account/wallet-balance"] == 50
        harness.sandbox.venue.faults.add([parse_fault("status,on=rest/v5/account/*,code=403,count=1")])
        with pytest.raises(RateLimited) as banned:
            await harness.port.wallet()
        assert banned.value.banned
        harness.sandbox.venue.faults.add([parse_fault("truncate,on=rest/v5/account/*,count=1")])
        with pytest.raises(OutcomeUnknown):
            await harness.port.wallet()
        await harness.port.close()


assert FAST["settle"] == "300ms"  # rows rely on views that lag longer than this
