"""Stores with runs to fold again, and the jobs of a served page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import ClientSession

from agent.config import parse
from agent.dashboard.server import Dashboard
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.store.database import Database
from agent.store.runs import Run
from tests.dashboard.dashboard_harness import origin
from tests.live.gateway.churning_strategy import churn
from tests.support.live import PATIENCE, SAMPLES, Words
from tests.support.recorded_venue import Venue, configuration, record

KLINES = ((SAMPLES / "BTCUSDT-1m.csv", None), (SAMPLES / "ETHUSDT-1m.csv", None))
SLOW = 5 * PATIENCE
"""Seconds for a job: it starts a process, and the machine may be busy."""


class RecordedRuns(NamedTuple):
    """A store, and its runs."""

    database: Database
    backtest: Run
    venue: Run


def record_backtest(database: Database, headlines: Path = SAMPLES / "headlines.csv", **sections: Any) -> Run:
    """Record a backtest of the sample data by the sentiment strategy."""
    params = {"position_size": 0.5, "allow_short": True}
    config = parse({"strategy": {"name": "sentiment", "params": params}} | sections, where="test")
    return backtest(History(Plan(KLINES, headlines), config), database, scorer=Words()).run


def record_venue_run(database: Database, minutes: int = 25) -> Run:
    """Record a run at a venue with twice the fee, five times the spread, and some refusals."""
    venue = Venue(rules={"taker_fee": "0.0011", "half_spread_bps": 2.5}, reject=13)
    return record(
        database, configuration(("BTCUSDT",), churn()), venue, minutes=minutes, run_id="20250101-venue"
    )


async def start(http: ClientSession, page: Dashboard, run: str, **body: Any) -> dict[str, Any]:
    """Start a job; return its first view, or the refusal with its `status`."""
    async with http.post(f"/api/runs/{run}/replay", json=body, headers=origin(page)) as response:
        return {"status": response.status} | await response.json()


async def finish(http: ClientSession, job: str) -> dict[str, Any]:
    """Return the last view of a job."""
    async with asyncio.timeout(SLOW):
        while True:
            async with http.get(f"/api/replays/{job}") as response:
                assert response.status == 200
                view: dict[str, Any] = await response.json()
            if view["done"]:
                return view
            await asyncio.sleep(0.1)


async def fold(http: ClientSession, page: Dashboard, run: str, **body: Any) -> dict[str, Any]:
    """Run a job and return its last view."""
    return await finish(http, (await start(http, page, run, **body))["job"])
