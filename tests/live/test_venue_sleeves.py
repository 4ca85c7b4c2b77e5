"""Several strategies in one account at a sandbox exchange: their sums are its account, to the cent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from agent.analysis.report.recorded_sleeves import sleeves_of
from agent.analysis.venue_slippage import compare_with_paper
from agent.config import Config, parse
from agent.core.errors import ConfigError, UsageError
from agent.core.events import CashAdjustment, Fill, FillKind, FundingPayment, Order, RiskState
from agent.core.exchange import EMERGENCY_PREFIX
from agent.core.sleeve_roster import id_prefix
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Market, Strategy, StrategyParams
from agent.dashboard.dashboard_state import DashboardState
from agent.dashboard.page_rows import run_header
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.emergency_close import EmergencyExit
from agent.live.gateway.bybit_port import open_port
from agent.live.gateway.credentials import load_credentials
from agent.live.sources import check_live_config
from agent.replay.twin_events import run_config
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_rows
from agent.store.runs import Run
from tests.live.gateway.churning_strategy import venue_settings
from tests.support.live import living, load_words, options, settings, until
from tests.support.netting import NetPosition

HERE = "tests.live.test_venue_sleeves"
CENT = Decimal("0.01")


class SwingParams(StrategyParams):
    """`sign` of the first position, `weight` of each; `protected` positions have a stop and a take-profit."""

    sign: int = 1
    weight: float = 0.05
    protected: bool = False


class Swing(Strategy[SwingParams]):
    """Long, flat, short, flat on successive bars."""

    def __init__(self, params: SwingParams | None = None) -> None:
        super().__init__(params)
        self.bars: dict[str, int] = {}

    def on_kline(self, kline: Any, market: Market) -> None:
        step = self.bars[kline.symbol] = self.bars.get(kline.symbol, -1) + 1
        side = (1, 0, -1, 0)[step % 4] * self.params.sign
        guard = 0.0005 * side if self.params.protected and side else None
        self.target(
            kline.symbol,
            weight=self.params.weight * side,
            stop=None if guard is None else -guard,
            take_profit=guard,
        )


def swing(name: str, share: float, **params: Any) -> dict[str, Any]:
    """Return the section of a sleeve."""
    return {"name": name, "strategy": {"name": f"{HERE}:Swing", "params": params}, "share": share}


def at_venue(sandbox: Sandbox, folder: Path, *sleeves: dict[str, Any], **execution: Any) -> Config:
    """Return the configuration of an agent whose sleeves trade at the sandbox."""
    sections = venue_settings(sandbox.rest_url, execution=execution)
    limits = {"max_daily_loss": 1.0, "max_drawdown": 1.0}
    sections["risk"] = sections["risk"] | limits
    raw = settings(sandbox.rest_url, folder, **sections).model_dump(mode="json")
    del raw["strategy"]
    return parse(raw | {"sleeves": list(sleeves)}, where="test")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


@pytest.fixture
async def sandbox() -> Any:
    async with Sandbox(options(speed=240, balance=Decimal("12345.67"))) as sandbox:
        yield sandbox


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'sleeves.db'}")) as database:
        yield database


def agent(config: Config, store: Database, sandbox: Sandbox) -> Daemon:
    return make_agent(config, store, load_model=load_words, clock=sandbox.clock)


def engine_of(daemon: Daemon) -> SleevedEngine:
    engine = daemon.pipeline.engine
    assert isinstance(engine, SleevedEngine)
    return engine


def legs(sandbox: Sandbox) -> dict[str, Decimal]:
    return {leg.symbol: leg.held.qty for leg in sandbox.venue.account.books["linear"].open_legs()}


def wallet(sandbox: Sandbox) -> Decimal:
    return sandbox.venue.account.wallet.balances()[0].wallet


def check_by_hand(store: Database, sandbox: Sandbox) -> dict[str, Decimal]:
    """Add the recorded decisions up by sleeve, compare the sums with the exchange, and return the profits."""
    run = find_run(store)
    fills = list(read_rows(store, run.id, Fill))
    payments = list(read_rows(store, run.id, FundingPayment))
    cash: dict[str, Decimal] = {}
    held: dict[tuple[str, str], Decimal] = {}
    for fill in fills:
        name = "" if fill.sleeve is UNSET else fill.sleeve
        signed = fill.side.sign * fill.qty
        cash[name] = cash.get(name, Decimal(0)) - signed * fill.price - fill.fee
        held[name, fill.symbol] = held.get((name, fill.symbol), Decimal(0)) + signed
    for payment in payments:
        name = "" if payment.sleeve is UNSET else payment.sleeve
        cash[name] = cash.get(name, Decimal(0)) + payment.amount
    account = sandbox.venue.account
    net = {symbol: Decimal(0) for _, symbol in held}
    for (_, symbol), qty in held.items():
        net[symbol] += qty
    assert {symbol: qty for symbol, qty in net.items() if qty} == legs(sandbox)
    # the exchange's own executions, netted independently, are what its wallet has moved by
    nets: dict[str, NetPosition] = {}
    for one in account.executions:
        if one.kind == "Trade":
            side = 1 if one.side.value in ("BUY", "Buy") else -1
            nets.setdefault(one.symbol, NetPosition()).trade(side * one.qty, one.price)
    spent = sum((position.cost for position in nets.values()), Decimal(0))
    begun = sum((one.amount for one in read_rows(store, run.id, CashAdjustment)), Decimal(0))
    begun += Decimal(run.config["account"]["initial_capital"])
    assert abs(begun + sum(cash.values()) + spent - wallet(sandbox)) < CENT
    internal = [fill for fill in fills if fill.kind is FillKind.INTERNAL]
    assert sum(fill.side.sign * fill.qty for fill in internal) == 0
    assert all(not fill.fee for fill in internal)
    booked = {fill.id for fill in fills if fill.kind is FillKind.TRADE}
    assert booked == {one.id for one in account.executions if one.kind == "Trade"}
    return cash


async def settled(daemon: Daemon, sandbox: Sandbox) -> None:
    """Close everything, and wait until nothing is in flight."""
    await daemon.command("pause", by="test")
    await daemon.command("flatten", by="test")
    engine = engine_of(daemon)
    await until(lambda: not any(one.engine.portfolio.open for one in engine.sleeves.values()))
    await until(lambda: daemon.gateway is not None and not daemon.gateway.health.intents)
    await until(lambda: not legs(sandbox) and not sandbox.venue.account.open)


@pytest.mark.slow
async def test_sleeves_net_against_each_other_and_add_up_to_the_exchange_over_restarts(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    sleeves = (
        swing("one", 0.5),
        swing("other", 0.3, sign=-1, protected=True),
        swing("third", 0.1, weight=0.2, protected=True),
    )
    config = at_venue(sandbox, tmp_path, *sleeves)
    for _ in range(3):
        daemon = agent(config, store, sandbox)
        async with living(daemon):
            await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 6)  # noqa: B023
            engine_of(daemon).check()
    daemon = agent(config, store, sandbox)
    async with living(daemon):
        await until(lambda: daemon.gateway is not None and daemon.gateway.reconciled.is_set())
        await settled(daemon, sandbox)
        engine = engine_of(daemon)
        await until(lambda: abs(wallet(sandbox) - engine.venue.wallet()) < CENT)
        engine.check()
        assert engine.risk.state is RiskState.REDUCING
        assert not any(position.qty for position in engine.unassigned.positions.values())
        of_sleeves = sum((one.engine.portfolio.cash for one in engine.sleeves.values()), engine.idle)
        assert abs(of_sleeves - wallet(sandbox)) < CENT
        profits = {
            name: one.engine.portfolio.cash - one.engine.portfolio.initial
            for name, one in engine.sleeves.items()
        }
    assert engine.crosses.totals.count > 0
    cash = check_by_hand(store, sandbox)
    assert {name: cash[name] for name in profits} == profits
    run = find_run(store)
    for order in read_rows(store, run.id, Order):
        assert order.id.startswith(id_prefix(run.id, order.sleeve)), order
    placed = sandbox.venue.account.orders.values()
    assert not any(order.reduce_only for order in placed)
    proof = verify(store, run)
    assert proof.identical
    assert proof.snapshots


@pytest.mark.slow
async def test_sleeves_are_added_removed_and_killed_at_the_exchange_and_the_page_shows_them(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    later = swing("later", 0.2, sign=-1) | {"enabled": False}
    config = at_venue(sandbox, tmp_path, swing("one", 0.5, protected=True), swing("other", 0.2), later)
    initial = config.account.initial_capital
    daemon = agent(config, store, sandbox)
    states: list[DashboardState] = []

    def observe(run: Run) -> DashboardState:
        states.append(DashboardState(run_header(run, config), config))
        return states[0]

    daemon.observe_run(observe)
    async with living(daemon):
        await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 4)
        engine = engine_of(daemon)
        balance = engine.capital  # the exchange's, which is not the configured one
        assert balance == initial + sum(
            (one.amount for one in read_rows(store, daemon.run_id, CashAdjustment)), Decimal(0)
        )
        ledger = engine.sleeves["one"].engine.portfolio
        assert ledger.initial == balance * Decimal("0.5")
        await daemon.command("add-sleeve", {"sleeve": "later"}, by="test")
        assert engine.sleeves["later"].engine.portfolio.initial == balance * Decimal("0.2")
        await until(lambda: engine.sleeves["later"].engine.portfolio.version > 3)
        await daemon.command("remove-sleeve", {"sleeve": "other"}, by="test")
        await until(lambda: "other" in engine.departed)
        await daemon.command("kill", {"flatten": "true"}, by="test")
        await until(lambda: not any(one.engine.portfolio.open for one in engine.sleeves.values()))
        await until(lambda: not legs(sandbox) and not sandbox.venue.account.open)
        status = daemon.status()
        assert [one.risk for one in status.sleeves] == [RiskState.HALTED, RiskState.HALTED]
        assert status.unassigned == {}
        await until(lambda: abs(wallet(sandbox) - engine.venue.wallet()) < CENT)
        for row in states[0].changes()["sleeves"]:
            if row.name in engine.sleeves:
                own = engine.sleeves[row.name].engine.portfolio
                assert row.equity == pytest.approx(own.equity(), abs=1e-9)
                assert (row.capital, row.positions) == (own.initial, {})
        assert states[0].account().equity == pytest.approx(engine.portfolio.equity(), abs=1e-9)
    check_by_hand(store, sandbox)
    assert verify(store, find_run(store)).identical
    study = sleeves_of(store, find_run(store).id, config)
    assert study is not None
    by_name = {one.name: one for one in study.sleeves}
    assert by_name["one"].capital == pytest.approx(float(balance) * 0.5)
    report = compare_with_paper(store, find_run(store))
    crossed = {
        fill.order_id for fill in read_rows(store, find_run(store).id, Fill) if fill.kind is FillKind.INTERNAL
    }
    assert report.orders
    assert not crossed & {row.id for row in report.orders}
    with pytest.raises(UsageError, match="only a run of one strategy has a twin"):
        run_config(find_run(store))


async def test_a_killed_agent_without_its_core_closes_the_account_and_the_sleeves_are_attributed(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    config = at_venue(sandbox, tmp_path, swing("one", 0.5), swing("other", 0.3, weight=0.1))
    daemon = agent(config, store, sandbox)
    async with living(daemon):
        await until(lambda: len(legs(sandbox)) == 2)
    port = open_port(config.execution.testnet, "linear", load_credentials(None), sandbox.clock)
    emergency = EmergencyExit(config, port, sandbox.clock, random.Random(1), lambda: None)
    report = await emergency.run(flatten=True, within=30.0)
    await emergency.close()
    assert report.done
    assert not legs(sandbox)
    daemon = agent(config, store, sandbox)
    async with living(daemon):
        await until(lambda: daemon.gateway is not None and daemon.gateway.reconciled.is_set())
        await settled(daemon, sandbox)
        engine = engine_of(daemon)
        assert not any(position.qty for position in engine.unassigned.positions.values())
        await until(lambda: abs(wallet(sandbox) - engine.venue.wallet()) < CENT)
    fills = list(read_rows(store, find_run(store).id, Fill))
    closed = [fill for fill in fills if fill.order_id.startswith(EMERGENCY_PREFIX)]
    assert closed
    assert all(fill.sleeve in ("one", "other") for fill in closed)
    assert verify(store, find_run(store)).identical


@pytest.mark.parametrize(
    ("execution", "sections", "refusal"),
    [
        ({"foreign": "adopt"}, {}, "adopted positions would be of none"),
        ({}, {"twin": {"enabled": True}}, "only a run of one strategy has a twin"),
    ],
)
def test_what_is_not_possible_with_sleeves_is_refused(
    tmp_path: Path, execution: dict[str, Any], sections: dict[str, Any], refusal: str
) -> None:
    venue = venue_settings("http://127.0.0.1:9", execution=execution, **sections)
    raw = settings("http://127.0.0.1:9", tmp_path, **venue)
    config = parse(
        {**raw.model_dump(mode="json", exclude={"strategy"}), "sleeves": [swing("one", 0.5)]}, where="test"
    )
    with pytest.raises(ConfigError, match=refusal):
        check_live_config(config)
