"""Several strategies in one account at a sandbox exchange: what it fills adds up to the sleeves, to the cent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from agent.config import Config, parse
from agent.core.errors import ConfigError
from agent.core.events import CashAdjustment, Fill, FillKind, FundingPayment, Order, OrderUpdate, RiskState
from agent.core.sleeve_roster import id_prefix
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Market, Strategy, StrategyParams
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_rows
from tests.live.gateway.churning_strategy import venue_settings
from tests.support.live import handled, living, load_words, options, settings, until
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
    async with Sandbox(options(speed=240)) as sandbox:
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
    moved = Decimal(0)
    for one in account.executions:
        if one.kind == "Trade":
            side = 1 if one.side.value in ("BUY", "Buy") else -1
            nets.setdefault(one.symbol, NetPosition()).trade(side * one.qty, one.price)
    spent = sum((position.cost for position in nets.values()), Decimal(0))
    begun = sum((one.amount for one in read_rows(store, run.id, CashAdjustment)), Decimal(0))
    begun += Decimal(run.config["account"]["initial_capital"])
    assert abs(begun + sum(cash.values()) + spent - wallet(sandbox)) < CENT, moved
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
    assert engine.crosses.totals.count > 0 or any(
        fill.kind is FillKind.INTERNAL for fill in read_rows(store, find_run(store).id, Fill)
    )
    cash = check_by_hand(store, sandbox)
    assert {name: cash[name] for name in profits} == profits
    run = find_run(store)
    for order in read_rows(store, run.id, Order):
        assert order.id.startswith(id_prefix(run.id, order.sleeve)), order
    placed = sandbox.venue.account.orders.values()
    assert not any(order.reduce_only for order in placed)
    assert verify(store, run).identical
