"""What the page costs the agent: its state beside the engine's own work on the same events; prints one JSON line.

    python bench/dashboard.py [--rounds 5]

`ratio_to_engine` is (CPU seconds of the page's state) / (CPU seconds of the engine) for one run of the sample data, the median over
alternating rounds. `message_us` is what one message to one browser costs after each bar, and `start_ms` what the server adds to the
agent's start, both in the agent's own event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.config import Config, parse
from agent.config.dashboard import DashboardConfig
from agent.core.engine import Engine
from agent.core.events import Event, Kline
from agent.core.sinks import ListSink
from agent.dashboard.picture import Picture
from agent.dashboard.push import encode
from agent.dashboard.recording import hear
from agent.dashboard.server import Dashboard
from agent.dashboard.views import head_of
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.replay.verify import inputs
from agent.store.database import Database, open_database
from agent.store.queries import read_decisions
from agent.store.runs import Run
from strategies import load_strategy

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
    """CPU seconds of deciding the run."""
    engine = Engine(config, load_strategy(run.strategy, run.params), ListSink(), run_id=run.id)
    began = time.process_time()
    for event in events:
        engine.handle(event)
    return time.process_time() - began


def picture_seconds(run: Run, config: Config, heard: list[tuple[int, Any, bool]]) -> float:
    """CPU seconds of hearing it."""
    picture = Picture(head_of(run, config), config)
    began = time.process_time()
    for seq, message, decided in heard:
        hear(picture, seq, message, decided=decided)
    return time.process_time() - began


def messages(run: Run, config: Config, heard: list[tuple[int, Any, bool]]) -> tuple[float, float, int]:
    """Median microseconds and bytes of a message after each bar, and bytes of the first message to a new browser."""
    picture = Picture(head_of(run, config), config)
    seen, costs, sizes = 0, [], []
    for seq, message, decided in heard:
        hear(picture, seq, message, decided=decided)
        if isinstance(message, Kline) and message.symbol == SYMBOLS[-1]:
            began = time.process_time()
            sent = encode(picture.changes(seen, SYMBOLS[0], seen))
            costs.append(time.process_time() - began)
            sizes.append(len(sent))
            seen = picture.version
    return (
        statistics.median(costs) * 1e6,
        statistics.median(sizes),
        len(encode(picture.changes(-1, SYMBOLS[0], -1))),
    )


async def server_ms(database: Database) -> float:
    """Milliseconds until it listens."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        async with Dashboard(DashboardConfig(port=0), database, token_file=Path(folder) / "token"):
            return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure, alternating, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
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
        heard = [
            (seq, message, place > 0)
            for seq, event in enumerate(events, 1)
            for place, message in enumerate((event, *decisions.get(seq, ())))
        ]
        pairs = [
            (picture_seconds(run, config, heard), engine_seconds(run, config, events)) for _ in range(rounds)
        ]
        cost, size, first = messages(run, config, heard)
        started = statistics.median(asyncio.run(server_ms(database)) for _ in range(rounds))
        imported = [
            [
                float(word)
                for word in subprocess.check_output([sys.executable, "-c", IMPORTS], text=True).split()
            ]
            for _ in range(rounds)
        ]
    print(
        json.dumps(
            {
                "benchmark": "dashboard", "ratio_to_engine": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
                "us_per_event": round(statistics.median(ours for ours, _ in pairs) / len(events) * 1e6, 2),
                "engine_us_per_event": round(statistics.median(theirs for _, theirs in pairs) / len(events) * 1e6, 2),
                "events": len(events), "decisions": len(heard) - len(events), "message_us": round(cost, 1), "message_bytes": size,
                "first_message_bytes": first, "start_ms": round(started, 1),
                "import_ms": round(statistics.median(ms for ms, _ in imported), 1),
                "import_mb": round(statistics.median(mb for _, mb in imported), 1),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
