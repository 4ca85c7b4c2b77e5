"""CLI commands after `db restore` of a backup older than the venue's history."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent.core.events import Command, Fill, FillKind
from agent.core.risk import OLDER_RECORD
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.sandbox import Sandbox
from agent.store.database import open_database
from tests.live.gateway.churning_strategy import churn
from tests.live.test_testnet import ledger, testnet
from tests.support.command_line import run_command
from tests.support.live import assert_sound, living, load_words, of, options, until


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")


@pytest.mark.slow
@pytest.mark.parametrize("foreign", ["refuse", "adopt"])
async def test_a_restored_backup_imports_the_venues_history_and_a_kill_ends_flat(
    foreign: str, tmp_path: Path
) -> None:
    path, copy = tmp_path / "config.toml", tmp_path / "backup.db"
    path.write_text(f'live.folder = "{tmp_path}"\nstore.url = "sqlite:///{tmp_path / "store.db"}"\n')

    async def verb(*words: str) -> None:
        done = await asyncio.to_thread(run_command, [*words, "--config", str(path)])
        assert done.exit_code == 0, (words, done.output, done.exception)

    async with Sandbox(options(speed=240)) as sandbox:
        config = testnet(sandbox, tmp_path, strategy=churn(), execution={"foreign": foreign})
        account = sandbox.venue.account

        def daemon() -> Daemon:
            return make_agent(config, database, load_model=load_words, clock=sandbox.clock)

        with closing(open_database(config.store.url)) as database:
            first = daemon()
            life = asyncio.create_task(first.run(asyncio.Event()))
            await until(lambda: first.gateway is not None and first.gateway.health.fills >= 8)
            await verb("db", "backup", str(copy))
            known = len(account.executions)
            await until(lambda: len(account.executions) >= known + 16 and account.books["linear"].open_legs())
            life.cancel()  # as a killed process leaves it: without a clean shutdown
            with suppress(asyncio.CancelledError):
                await life
        await verb("db", "restore", str(copy))
        with closing(open_database(config.store.url)) as database:
            second = daemon()
            async with living(second):
                await until(lambda: second.gateway is not None and second.gateway.reconciled.is_set())
                # First what the mark beside the store shows, then what the venue's history has
                await until(lambda: "that the record of this run has not" in second.status().risk_detail)
                status = second.status()
                assert status.risk_rule == OLDER_RECORD
                assert status.risk.value == "REDUCING"
                assert "tapewire resume" in status.risk_detail
                await verb("resume")
                assert second.status().risk.value == "ACTIVE"
                fills = len(account.executions)
                await until(lambda: len(account.executions) >= fills + 4)  # the agent trades again
                await verb("kill", "--flatten")
                await until(lambda: not account.books["linear"].open_legs() and not account.open)
                await until(lambda: second.gateway is not None and not second.gateway.health.intents)
                assert not [held for held in ledger(second).books if ledger(second).held(held)]
                gateway = second.gateway
                assert gateway is not None
                assert gateway.health.taken_ids == 0
                assert not gateway.health.drift
            events = assert_sound(database, "latest", config)
            assert len({e.args["incarnation"] for e in of(Command, events) if e.action == "life"}) == 2
            booked = [fill.id for fill in of(Fill, events) if fill.kind is FillKind.TRADE]
            assert sorted(booked) == sorted(one.id for one in account.executions if one.kind == "Trade")
            links = [order.link for order in account.orders.values() if order.link]
            assert len(links) == len(set(links))
