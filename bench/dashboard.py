"""Measure what the dashboard costs the agent, and print one line of JSON.

    python bench/dashboard.py [--rounds 5]

`ratio_to_engine` is (CPU seconds of the dashboard state) / (CPU seconds of the engine) for one run of the
sample data, as the median over alternating rounds. `message_us` is the cost of one message to one browser
after each bar, and `start_ms` the time that the server adds to the agent's start, both in the agent's event
loop.

    python bench/dashboard.py --events 1000000

measures instead how a recorded run of so many events opens in Chromium, over loopback, in ms after the
navigation began: `first_paint_ms`, `board_ms` until the price chart and equity of the whole run are there,
`trades_ms` and `performance_ms` until the table and figures of these views are. `fold_s` is how long it takes
to read the events, until every moment can be shown. The server has just started: nothing is in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from agent.config import Config, parse
from agent.config.services import DashboardConfig
from agent.core.engine import Engine
from agent.core.events import Event, Kline
from agent.core.sinks import ListSink
from agent.dashboard.dashboard_state import NO_VERSION, DashboardState
from agent.dashboard.page_rows import run_header
from agent.dashboard.playback import apply_message
from agent.dashboard.server import Dashboard
from agent.dashboard.websocket import encode
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.replay.verify import inputs
from agent.store.database import Database, open_database
from agent.store.queries import read_decisions
from agent.store.runs import Run
from strategies import load_strategy

READY = {
    "now": "document.querySelector('#legend').textContent && document.querySelector('#equity canvas')",
    "trades": "document.querySelector('#trades-table tbody td:not(.empty)')",
    "performance": "document.querySelector('#performance-tiles dd')",
}
"""View -> what is true in the page once it shows the run."""
WHEN_READY = """
const done = arguments[arguments.length - 1];
const look = () => {
  if (!(READY)) return void setTimeout(look, 5);
  const paint = performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0;
  done([paint, performance.now()]);
};
look();
"""
ROOT = Path(__file__).resolve().parent.parent
SYMBOLS = ("BTCUSDT", "ETHUSDT")
IMPORTS = """import resource, time
import agent.live.daemon

def now():
    return time.perf_counter() * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = now()
import agent.dashboard.server
print(*(after - before for after, before in zip(now(), before)))
"""


def engine_seconds(run: Run, config: Config, events: list[Event]) -> float:
    """Return the CPU seconds that the engine takes to handle the run's events."""
    engine = Engine(config, load_strategy(run.strategy, run.params), ListSink(), run_id=run.id)
    began = time.process_time()
    for event in events:
        engine.handle(event)
    return time.process_time() - began


def state_seconds(run: Run, config: Config, recorded: list[tuple[int, Any, bool]]) -> float:
    """Return the CPU seconds that the dashboard state takes to apply the run's messages."""
    state = DashboardState(run_header(run, config), config)
    began = time.process_time()
    for seq, message, decided in recorded:
        apply_message(state, seq, message, decided=decided)
    return time.process_time() - began


def messages(run: Run, config: Config, recorded: list[tuple[int, Any, bool]]) -> tuple[float, float, int]:
    """Return microseconds and bytes (medians) of a message after each bar, and bytes of the first message."""
    state = DashboardState(run_header(run, config), config)
    seen, costs, sizes = 0, [], []
    for seq, message, decided in recorded:
        apply_message(state, seq, message, decided=decided)
        if isinstance(message, Kline) and message.symbol == SYMBOLS[-1]:
            began = time.process_time()
            sent = encode(state.changes(seen, SYMBOLS[0], seen))
            costs.append(time.process_time() - began)
            sizes.append(len(sent))
            seen = state.version
    return (
        statistics.median(costs) * 1e6,
        statistics.median(sizes),
        len(encode(state.changes(NO_VERSION, SYMBOLS[0]))),
    )


async def server_ms(database: Database) -> float:
    """Return the milliseconds until the server listens."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        async with Dashboard(DashboardConfig(port=0), database, token_file=Path(folder) / "token"):
            return (time.perf_counter() - began) * 1000


def long_run(database: Database, folder: Path, events: int) -> Run:
    """Record a backtest of two random walks of minutes, with as many bars as `events`."""
    rng, minutes = np.random.default_rng(7), events // len(SYMBOLS)
    start = 1_704_067_200_000 + 60_000 * np.arange(minutes)
    for symbol in SYMBOLS:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 2e-4, minutes)))
        opened = np.concatenate(((100.0,), close[:-1]))
        high, low = np.maximum(opened, close) * 1.0001, np.minimum(opened, close) * 0.9999
        names = ("timestamp", "open", "high", "low", "close", "volume")
        table = dict(zip(names, (start, opened, high, low, close, np.full(minutes, 50.0)), strict=True))
        pq.write_table(pa.table(table), folder / f"{symbol}-1m.parquet")
    params = {"fast": 60, "slow": 240}
    settings = {"strategy": {"name": "sma_cross", "params": params}, "risk": {"max_drawdown": 1.0}}
    plan = Plan(tuple((folder / f"{symbol}-1m.parquet", symbol) for symbol in SYMBOLS))
    return backtest(History(plan, parse(settings, where="bench")), database).run


async def _opened(database: Database, chrome: Any, folder: Path, run: str, view: str, ready: str) -> Any:
    """Open a view on a new server; return the milliseconds of the first paint and until `ready` is true."""
    config = DashboardConfig(port=0, login="never")
    async with Dashboard(config, database, token_file=folder / f"token-{view}") as page:
        await asyncio.to_thread(chrome.get, "about:blank")
        await asyncio.to_thread(chrome.get, f"{page.url}runs/{run}#{view}")
        found = await asyncio.to_thread(chrome.execute_async_script, WHEN_READY.replace("READY", ready))
        if view == "now":
            folded = WHEN_READY.replace("READY", "document.querySelector('#when').dataset.shown")
            found.append((await asyncio.to_thread(chrome.execute_async_script, folded))[1])
        return found


def opening(events: int) -> dict[str, Any]:
    """Measure how the views of a run of so many events open."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(open_database(f"sqlite:///{scratch}/store.db")) as database,
    ):
        run = long_run(database, Path(scratch), events)
        chrome = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        chrome.set_script_timeout(600)
        try:
            found = {
                view: asyncio.run(_opened(database, chrome, Path(scratch), run.id, view, ready))
                for view, ready in READY.items()
            }
        finally:
            chrome.quit()
    return {
        "benchmark": "opening of a recorded run",
        "events": run.events,
        "decisions": run.decisions,
        "round_trips": run.metrics["trades"]["trades"],
        "first_paint_ms": round(max(paint for paint, *_ in found.values())),
        "board_ms": round(found["now"][1]),
        "trades_ms": round(found["trades"][1]),
        "performance_ms": round(found["performance"][1]),
        "fold_s": round(found["now"][2] / 1000, 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=0)
    given = parser.parse_args()
    if given.events:
        print(json.dumps(opening(given.events)))
        return
    rounds = given.rounds
    samples = ROOT / "tests/sample_data"
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(open_database(f"sqlite:///{scratch}/store.db")) as database,
    ):
        settings = {"strategy": {"name": "sma_cross", "params": {"fast": 5, "slow": 20}}}
        plan = Plan(tuple((samples / f"{symbol}-1m.csv", symbol) for symbol in SYMBOLS))
        run = backtest(History(plan, parse(settings, where="bench")), database).run
        config, replayed = inputs(database, run)
        events = list(replayed)
        decisions: dict[int, list[Any]] = {}
        for item in read_decisions(database, run.id):
            decisions.setdefault(item.event_seq, []).append(item.decision)
        recorded = [
            (seq, message, place > 0)
            for seq, event in enumerate(events, 1)
            for place, message in enumerate((event, *decisions.get(seq, ())))
        ]
        pairs = [
            (state_seconds(run, config, recorded), engine_seconds(run, config, events)) for _ in range(rounds)
        ]
        cost, size, first = messages(run, config, recorded)
        started = statistics.median(asyncio.run(server_ms(database)) for _ in range(rounds))
        imported = [
            [
                float(word)
                for word in subprocess.check_output([sys.executable, "-c", IMPORTS], text=True).split()
            ]
            for _ in range(rounds)
        ]
    state_cpu, engine_cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "benchmark": "dashboard",
        "ratio_to_engine": round(statistics.median(state / engine for state, engine in pairs), 3),
        "us_per_event": round(state_cpu / len(events) * 1e6, 2),
        "engine_us_per_event": round(engine_cpu / len(events) * 1e6, 2),
        "events": len(events),
        "decisions": len(recorded) - len(events),
        "message_us": round(cost, 1),
        "message_bytes": size,
        "first_message_bytes": first,
        "start_ms": round(started, 1),
        "import_ms": round(statistics.median(ms for ms, _ in imported), 1),
        "import_mb": round(statistics.median(mb for _, mb in imported), 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
