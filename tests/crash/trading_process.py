"""Agent process that trades at the sandbox exchange until it has to finish or is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import event as sql

from agent.config import Config, parse
from agent.config.live import LogConfig
from agent.core.errors import TapewireError
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.log import configure
from agent.store.database import open_database
from agent.system.clock import Clock
from tests.crash.gateway_kill_points import install
from tests.crash.kill_points import KillMoment
from tests.crash.sandbox_process import BALANCE, SYMBOLS
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.support.live import settings

SETTLE_TIMEOUT: Final = 60.0  # seconds until an account without trading must be settled
_LOOK: Final = 0.02


def trading(url: str, folder: Path, *, sleeves: bool) -> Config:
    """Return a configuration that orders on every bar of every symbol. `overlap` is in market time, which
    runs faster. `sleeves` gives the account three strategies, two of which trade against each other.
    """
    alone = settings(
        url,
        folder,
        market={"symbols": SYMBOLS},
        account={"initial_capital": int(BALANCE)},
        dashboard={"enabled": False},
        **venue_settings(
            url,
            execution={
                "settle": "100ms",
                "recv_window": "300ms",
                "reconcile_every": "300ms",
                "overlap": "10m",
            },
            strategy=churn(weight=0.02),
            instruments={
                symbol: {
                    "tick_size": "0.1" if number != 1 else "0.01",
                    "qty_step": "0.001" if number != 1 else "0.01",
                    "min_qty": "0.001" if number != 1 else "0.01",
                }
                for number, symbol in enumerate(SYMBOLS)
            },
        ),
    )
    if not sleeves:
        return alone
    raw = alone.model_dump(mode="json")
    del raw["strategy"]
    raw["sleeves"] = [
        {"name": "one", "strategy": churn(weight=0.02), "share": 0.5},
        {"name": "other", "strategy": churn(weight=-0.03, limit=False), "share": 0.3},
        {"name": "third", "strategy": churn(weight=0.05), "share": 0.1, "symbols": SYMBOLS[:2]},
    ]
    return parse(raw, where="tests/crash/trading_process.py")


def main(
    url: str, clock: Clock, folder: Path, moment: KillMoment, *, finish: bool, sleeves: bool = False
) -> int:
    """Run the process; the exit code is 0 if it was asked to finish and did, with nothing left open."""
    os.environ |= {"TAPEWIRE_API_KEY": "sandbox-key", "TAPEWIRE_API_SECRET": "sandbox-secret"}
    configure(LogConfig(level="error"))
    install(moment)
    try:
        return asyncio.run(_live(trading(url, folder, sleeves=sleeves), clock, finish=finish))
    except TapewireError as error:
        print(f"{folder.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


async def _live(config: Config, clock: Clock, *, finish: bool) -> int:
    with closing(open_database(config.store.url)) as database:
        sql.listen(
            database.engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA wal_autocheckpoint=8"),
        )
        daemon = make_agent(config, database, load_model=_no_model, clock=clock)
        stop = asyncio.Event()
        run = asyncio.create_task(daemon.run(stop))
        settled = True
        if finish:
            try:
                async with asyncio.timeout(SETTLE_TIMEOUT):
                    await _finish(daemon, run)
            except TimeoutError:
                settled = False
                print(f"not settled: {daemon.gateway and daemon.gateway.health}", file=sys.stderr)
            stop.set()
        await asyncio.wait({run})
        run.result()
    return 0 if settled else 1


async def _finish(daemon: Daemon, run: asyncio.Task[Any]) -> None:
    """Stop trading and wait until no intent is open and the account agrees with the ledger."""
    while daemon.gateway is None or not daemon.gateway.reconciled.is_set():
        await _poll(run)
    await daemon.command("pause", by="crash")
    await daemon.command("flatten", by="crash")
    while True:
        seen = daemon.gateway.health.reconciled_at
        while daemon.gateway.health.reconciled_at == seen:
            await _poll(run)
        await (await daemon.life.commands.put("heartbeat"))  # all earlier events have been handled
        health = daemon.gateway.health
        if not health.intents and not health.drift:
            return


async def _poll(run: asyncio.Task[Any]) -> None:
    await asyncio.sleep(_LOOK)
    if run.done():
        run.result()


def _no_model(folder: str) -> Any:
    raise AssertionError(folder)
