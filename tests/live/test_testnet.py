"""The daemon in testnet mode against a sandbox exchange: the ledger always equals the wallet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, parse
from agent.core.errors import ConfigError, SafetyError, VenueError
from agent.core.events import AccountSnapshot, Command, Fill, Order, OrderUpdate
from agent.core.venue import VenueExchange
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.order_routing import check_venue
from agent.sandbox import Sandbox
from agent.sandbox.faults import parse_fault
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_decisions
from tests.conftest import ROOT
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.support.live import assert_sound, journal, living, load_words, of, options, settings, until


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


def testnet(sandbox: Sandbox, folder: Path, **more: Any) -> Config:
    return settings(sandbox.rest_url, folder, **venue_settings(sandbox.rest_url, **more))


testnet.__test__ = False  # type: ignore[attr-defined]


def usdt(sandbox: Sandbox) -> Decimal:
    return sandbox.venue.account.wallet.balances()[0].wallet


async def test_orders_reach_the_venue_only_after_the_account_snapshot(
    database: Database, tmp_path: Path
) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = testnet(sandbox, tmp_path, strategy=churn())
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 12)
            status = daemon.status()
        gateway = next(one for one in status.producers if one["name"] == "gateway")
        assert gateway["stream"]
        assert gateway["reconciled_at"]
        assert not gateway["drift"]
        events = assert_sound(database, "latest", config)
        first = next(n for n, e in enumerate(events) if isinstance(e, AccountSnapshot))
        orders = [
            item
            for item in read_decisions(database, find_run(database).id)
            if isinstance(item.decision, Order)
        ]
        assert all(item.event_seq > first for item in orders)
        placed = {order.link for order in sandbox.venue.account.orders.values()}
        assert placed <= {item.decision.id for item in orders if isinstance(item.decision, Order)}
        assert of(OrderUpdate, events)
        assert of(Fill, events)


@pytest.mark.slow
async def test_the_ledger_equals_the_wallet_over_restarts(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = testnet(sandbox, tmp_path, strategy=churn())
        for _ in range(3):
            daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            async with living(daemon):
                await until(
                    lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 4  # noqa: B023
                )
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: daemon.gateway is not None and daemon.gateway.reconciled.is_set())
            await daemon.command("flatten", by="test")
            await daemon.command("pause", by="test")
            await until(lambda: daemon.gateway is not None and not daemon.gateway.health.intents)
            await until(lambda: not sandbox.venue.account.books["linear"].open_legs())
            await until(lambda: f"{usdt(sandbox) - ledger(daemon).wallet():.2f}" in ("0.00", "-0.00"))
        events = assert_sound(database, "latest", config)
        fills = [fill.id for fill in of(Fill, events)]
        assert (
            len(set(fills))
            == len(fills)
            == sum(one.kind == "Trade" for one in sandbox.venue.account.executions)
        )
        reconciling = [event for event in of(Command, events) if event.action == "reconciling"]
        assert len(reconciling) == 4


def ledger(daemon: Daemon) -> VenueExchange:
    found = daemon.pipeline.engine.exchange
    assert isinstance(found, VenueExchange)
    return found


async def test_a_kill_cancels_all_orders_and_halts(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        daemon = make_agent(
            testnet(sandbox, tmp_path, strategy=churn()), database, load_model=load_words, clock=sandbox.clock
        )
        async with living(daemon):
            await until(lambda: len(sandbox.venue.account.open) >= 2)
            await daemon.command("kill", {"flatten": "true"}, by="test")
            await until(
                lambda: (
                    not sandbox.venue.account.open and not sandbox.venue.account.books["linear"].open_legs()
                )
            )
            assert daemon.status().risk.value == "HALTED"


async def test_an_account_that_is_not_empty_prevents_the_start(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = testnet(sandbox, tmp_path, strategy=churn(), execution={"reconcile_every": "100ms"})
        first = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(first):
            await until(lambda: sandbox.venue.account.books["linear"].open_legs())
        again = make_agent(config, database, load_model=load_words, clock=sandbox.clock, new=True)
        with pytest.raises(SafetyError, match="the account is not empty"):
            async with living(again) as life:
                await until(life.done)


async def test_an_unresponsive_venue_prevents_the_start(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        sandbox.venue.faults.add([parse_fault("status,on=rest/v5/position/*,code=500")])
        config = testnet(sandbox, tmp_path, execution={"start_within": "500ms"})
        with pytest.raises(VenueError, match="could not be reconciled within 500ms: HTTP 500"):
            async with living(
                make_agent(config, database, load_model=load_words, clock=sandbox.clock)
            ) as life:
                await until(life.done)


@pytest.mark.parametrize(
    ("venue", "data", "fits"),
    [
        ("testnet", "testnet", True),
        ("demo", "mainnet", True),
        ("http://127.0.0.1:1", "http://127.0.0.1:2", True),
        ("testnet", "mainnet", False),
        ("demo", "testnet", False),
        ("http://127.0.0.1:1", "mainnet", False),
        ("testnet", "http://127.0.0.1:1", False),
    ],
)
def test_orders_and_data_must_use_the_same_market(venue: str, data: str, fits: bool) -> None:
    config = parse(
        {"execution": {"mode": "testnet", "testnet": {"venue": venue}}, "bybit": {"endpoint": data}},
        where="test",
    )
    if fits:
        check_venue(config)
    else:
        with pytest.raises(ConfigError, match="their prices are not the same"):
            check_venue(config)


@pytest.mark.slow
def test_run_trades_at_a_sandbox_process(tmp_path: Path) -> None:
    """`tapewire sandbox` and `tapewire run` as two processes in real time; the API keys are in a file."""
    (tmp_path / "keys").write_text("sandbox-key\nsandbox-secret\n")
    (tmp_path / "keys").chmod(0o600)
    run = [sys.executable, "-m", "agent.cli.main"]
    klines = [
        f"{symbol}={ROOT / 'tests/sample_data' / f'{symbol}-1m.csv'}" for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    given = {
        "cwd": tmp_path,
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(
        [*run, "sandbox", "--json", "--port", "0", "--klines", klines[0], klines[1]], **given
    ) as venue:  # type: ignore[call-overload]
        try:
            url = json.loads(venue.stdout.readline())["rest"]
            (tmp_path / "config.toml").write_text(
                f'''
                market.symbols = ["BTCUSDT", "ETHUSDT"]
                strategy.name = "sma_cross"
                bybit.endpoint = "{url}"
                execution.mode = "testnet"
                execution.testnet.venue = "{url}"
                execution.testnet.key_file = "keys"
                execution.testnet.settle = "300ms"
                '''
            )
            ended = subprocess.run(
                [*run, "run", "--seconds", "5", "--complete", "--json"], timeout=60, check=False, **given
            )  # type: ignore[call-overload]
            assert ended.returncode == 0, ended.stderr
            assert json.loads(ended.stdout)["status"] == "complete"
            compared = subprocess.run(  # type: ignore[call-overload]
                [*run, "slippage", "--json"], timeout=60, check=False, **given
            )
            assert compared.returncode == 0, compared.stderr
            found = json.loads(compared.stdout)
            assert found["venue"] == url
            with closing(open_database(f"sqlite:///{tmp_path / 'var/tapewire.db'}")) as opened:
                assert of(AccountSnapshot, journal(opened))
            assert (
                subprocess.run(  # type: ignore[call-overload]
                    [*run, "verify"], timeout=60, check=False, **given
                ).returncode
                == 0
            )
            (tmp_path / "keys").chmod(0o644)
            refused = subprocess.run(  # type: ignore[call-overload]
                [*run, "run", "--seconds", "5"], timeout=60, check=False, **given
            )
            assert refused.returncode == 3
            assert "can be read by others" in refused.stderr
        finally:
            venue.terminate()
