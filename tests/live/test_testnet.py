"""The daemon in testnet mode against a real exchange on loopback: the ledger is the wallet, whatever happens on the way."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.events import Account, Fill, Order, OrderUpdate
from agent.live.daemon import Daemon
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, read_decisions
from tests.execution.testnet.world import churn, venue_settings
from tests.live.world import assert_sound, living, load_words, of, options, settings, until


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


def testnet(sandbox: Sandbox, folder: Path, **more: Any) -> Config:
    return settings(sandbox.rest_url, folder, **venue_settings(sandbox.rest_url, **more))


testnet.__test__ = False  # type: ignore[attr-defined]


def usdt(sandbox: Sandbox) -> Decimal:
    return sandbox.venue.account.wallet.balances()[0].wallet


async def test_orders_go_to_the_venue_and_the_ledger_is_its_wallet(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        config = testnet(sandbox, tmp_path, strategy=churn())
        daemon = Daemon(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: daemon.gateway is not None and daemon.gateway.health.fills >= 12)
            status = daemon.status()
        gateway = next(one for one in status.producers if one["name"] == "gateway")
        assert gateway["stream"]
        assert gateway["reconciled_at"]
        assert not gateway["drift"]
        events = assert_sound(database, "latest", config)
        first = next(n for n, e in enumerate(events) if isinstance(e, Account))
        orders = [item for item in read_decisions(database, find_run(database).id) if isinstance(item.decision, Order)]
        assert all(item.event_seq > first for item in orders)
        placed = {order.link for order in sandbox.venue.account.orders.values()}
        assert placed <= {item.decision.id for item in orders if isinstance(item.decision, Order)}
        assert of(OrderUpdate, events)
        assert of(Fill, events)
