"""The daemon's stale-data watchdog, and risk limits that survive a kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from agent.core.events import DAY_MS, MINUTE_MS, Command, Kline, OrderUpdate, RiskEvent, RiskState
from agent.core.strategy import Market, Strategy
from agent.live.app import make_agent
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.sandbox.faults import Fault
from agent.store.database import Database, open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_rows
from tests.conftest import ROOT
from tests.support.live import assert_sound, living, load_words, of, options, settings, until
from tests.support.market import T0, config


class Patient(Strategy):
    """Bids far below the market and waits."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if not market.position(kline.symbol):
            self.target(kline.symbol, weight=0.2, limit=round(kline.close * 0.8, 1))


CUT_OFF = (
    Fault("drop", "ws/public/kline*"),
    Fault("status", "ws/public/connect", code=503),
    Fault("status", "rest/*", code=503),
)


async def test_stale_and_recovered_data_are_reported_to_the_core(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options(speed=240)) as sandbox:
        resting = {"name": "tests.live.test_stale_data_watchdog:Patient", "params": {}}
        risk = {"stale_after": "4m", "on_stale": "cancel"}
        config = settings(sandbox.rest_url, tmp_path, risk=risk, strategy=resting)
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(
                lambda: daemon.started and all(tape.book for tape in daemon.pipeline.engine.states.values())
            )
            sandbox.venue.faults.add(list(CUT_OFF))
            await until(lambda: len(daemon.pipeline.engine.risk.stale) == 2)
            assert all(position.stale and not position.open_orders for position in daemon.status().positions)
            sandbox.venue.faults.clear()
            await until(lambda: not daemon.pipeline.engine.risk.stale)
    events = assert_sound(database, "latest", config)
    beats = [event for event in of(Command, events) if event.action == "heartbeat"]
    assert len(beats) >= 2
    run = find_run(database)
    told = [event.detail for event in read_rows(database, run.id, RiskEvent) if event.rule == "stale data"]
    assert len(told) == 4
    assert all("overdue: cancel" in words for words in told[:2])
    assert told[2:] == ["its data are back"] * 2
    assert [update.reason for update in read_rows(database, run.id, OrderUpdate)].count("stale data") == 2


def falling(minutes: int, start: float, step: float) -> list[float]:
    return [start + step * minute for minute in range(minutes)]


CLOSES = [
    100.0,
    *falling(11, 100.0, 1.0),
    *falling(29, 109.0, -0.6),
    *[92.0] * 1_440,
    *falling(14, 92.0, -1.0),
]
"""Up to 110; at minute 40 down 8 % from the day's start; a flat day; then 79, a drawdown only from 110."""

LIMITS = config(
    strategy={"name": "buy_and_hold", "params": {}},
    risk={"max_daily_loss": 0.06, "max_drawdown": 0.25, "max_position": 2, "max_leverage": 2, "max_order": 2},
    paper={"funding_rate": 0},
)
FED_AND_KILLED = """
import asyncio, os, sys
from agent.live.pipeline import Pipeline
from agent.store.database import open_database
from agent.store.queries import list_runs
from tests.live.test_pipeline import a_run, at_once
from tests.live.test_stale_data_watchdog import CLOSES, LIMITS
from tests.support.market import flat_bars
from msgspec.structs import replace

async def main(url, begin, end):
    database = open_database(url)
    resume = bool(list_runs(database))
    run = list_runs(database)[0] if resume else \
replace(a_run(), strategy="buy_and_hold", params={}, config=LIMITS.persisted())
    with Pipeline(LIMITS, database, run, resume=resume) as pipeline:
        await pipeline.feed(at_once(flat_bars(CLOSES)[begin:end]))
        print(pipeline.engine.risk.state.value, pipeline.engine.risk.rule, flush=True)
        os.kill(os.getpid(), 9)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.slow
def test_daily_loss_and_peak_survive_kill_9_in_the_middle_of_the_day(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    cuts = (0, 42, 50, 1_442, len(CLOSES))
    states = []
    for begin, end in pairwise(cuts):
        killed = subprocess.run(
            [sys.executable, "-c", FED_AND_KILLED, url, str(begin), str(end)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        states.append(killed.stdout.splitlines()[-1])
    # Daily loss; kept over kill -9; reset by the new day; a fall from a peak two restarts ago halts
    assert states == [
        "REDUCING max_daily_loss",
        "REDUCING max_daily_loss",
        "ACTIVE max_daily_loss",
        "HALTED max_drawdown",
    ]
    with closing(open_database(url)) as database:
        run = find_run(database)
        assert verify(database, run).identical
        moves = [
            (event.state, (event.ts - T0) // MINUTE_MS) for event in read_rows(database, run.id, RiskEvent)
        ]
        assert [state for state, _ in moves] == [
            RiskState.REDUCING,
            RiskState.ACTIVE,
            RiskState.REDUCING,
            RiskState.HALTED,
        ]
        assert moves[1][1] == DAY_MS // MINUTE_MS
        closes = {
            event.start: event.close
            for _, event in read_journal(database, run.id)
            if isinstance(event, Kline)
        }
        assert len(closes) == len(CLOSES)
