"""Runs the daemon through a day of market at high speed with all faults; prints one JSON line.

    python bench/soak.py [--hours 24] [--speed 1200] [--faults 1] [--seed 1] [--klines FILE ...]
                         [--model starter]

The sandbox exchange and its feeds run in another process, so the memory is the daemon's alone. Afterwards the
journal is compared with the kline files and the served headlines, and the run is verified. The exit code is 1
if anything is missing, doubled, wrong or different. `--faults` multiplies the probability of every fault; 0
means a venue without faults.

A bar that the exchange withholds permanently, also from its history, must be a gap in the journal and is
counted separately.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
from msgspec.structs import replace

from agent.cli.console import print_json
from agent.config import Config, parse
from agent.core.errors import TapewireError
from agent.core.events import HOUR_MS, MINUTE_MS
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.interfaces.status import Status
from agent.live.log import configure
from agent.live.model_loader import model_loader
from agent.replay.verify import verify
from agent.sandbox import SandboxOptions
from agent.sandbox.faults import Fault
from agent.sandbox.feed_server import slug
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.runs import Run
from agent.system.clock import Clock
from bench.audit import audit_bars, audit_headlines
from bench.exchange_process import PUBLISHERS, ExchangeInfo, ExchangeProcess, copy_bars, write_headlines

ROOT: Final = Path(__file__).resolve().parent.parent
WARM_UP: Final = 200  # bars
TAIL: Final = 60  # bars after the last one that counts: a gap is revealed by a later bar only
LAUNCH: Final = 10.0  # maximum seconds until the daemon is connected and warm
SETTLE_TIMEOUT: Final = 20.0  # seconds for events in flight at the end of the market

KLINES, REST, FEEDS = "ws/public/kline*", "rest/*", "feeds/*"
FAULTS: Final = (
    Fault("drop", KLINES, 0.01),
    Fault("delay", KLINES, 0.002, ms=100),
    Fault("duplicate", KLINES, 0.01),
    Fault("reorder", KLINES, 0.02),
    Fault("corrupt", KLINES, 0.003),
    Fault("truncate", KLINES, 0.003),
    Fault("close", KLINES, 0.002),
    Fault("stall", KLINES, 0.0003, ms=1_000),
    Fault("drop", "ws/public/ack", 0.02),
    Fault("drop", "ws/public/pong", 0.02),
    Fault("status", "ws/public/connect", 0.05, code=503),
    Fault("status", "ws/public/connect", 0.02, code=403),
    Fault("gap", "market/*", 0.005),
    Fault("gap", "market/*", 0.002, rest=True),
    Fault("delay", REST, 0.05, ms=50),
    Fault("status", REST, 0.02, code=403),
    Fault("status", REST, 0.03, code=503),
    Fault("timeout", REST, 0.02, ms=500),
    Fault("close", REST, 0.02),
    Fault("retcode", REST, 0.02, code=10006),
    Fault("retcode", REST, 0.02, code=10016),
    Fault("corrupt", REST, 0.02),
    Fault("truncate", REST, 0.02),
    Fault("delay", FEEDS, 0.05, ms=100),
    Fault("status", FEEDS, 0.03, code=503),
    Fault("status", FEEDS, 0.02, code=403),
    Fault("timeout", FEEDS, 0.02, ms=500),
    Fault("close", FEEDS, 0.03),
    Fault("corrupt", FEEDS, 0.02),
    Fault("truncate", FEEDS, 0.02),
)
"""Faults and their probabilities."""

STREAM: Final = (
    "connects",
    "reconnects",
    "messages",
    "errors",
    "corrupt",
    "duplicates",
    "stale",
    "backfilled",
    "gaps",
)
FEED: Final = ("connects", "errors", "duplicates")


def settings(info: ExchangeInfo, symbols: Sequence[str], folder: Path, speed: float, model: str) -> Config:
    """Return the daemon's configuration. Waits are in real time; spans of the market are scaled by
    `speed`.
    """
    feeds = [
        {"url": f"{info.url}/feeds/{slug(publisher)}.{kind}", "name": publisher, "interval": "250ms"}
        for publisher, kind in zip(PUBLISHERS, ("rss", "atom"), strict=True)
    ]
    hours = f"{max(1, round(speed / 100))}h"  # about half a minute of real time
    return parse(
        {
            "market": {"symbols": list(symbols)},
            "strategy": {"params": {"position_size": 0.3, "allow_short": True, "hold": "1h"}},
            "risk": {"stale_after": hours, "max_drawdown": 1.0, "max_daily_loss": 1.0},
            "model": {"path": model, "threads": 1},
            "bybit": {
                "endpoint": info.url,
                "warmup_bars": WARM_UP,
                "settle": f"{max(2_000, round(33 * speed))}ms",
                "audit_interval": "200ms",
                "silence_timeout": "2s",
                "open_timeout": "2s",
                "ack_timeout": "1s",
                "rest_timeout": "2s",
                "backfill_timeout": "20s",
                "ping_interval": "500ms",
                "pong_timeout": "500ms",
                "ban_wait": "300ms",
                "throttle_wait": "200ms",
                "max_connects": 450,
                "max_requests": 400,
                "max_ahead": hours,
                "reconnect": {"first": "20ms", "ceiling": "200ms"},
                "retry": {"first": "20ms", "ceiling": "100ms"},
            },
            "news": {
                "feeds": feeds,
                "spread": 0,
                "max_age": hours,
                "backlog_age": hours,
                "max_ahead": hours,
                "total_timeout": "2s",
                "retry": {"first": "50ms", "ceiling": "500ms"},
            },
            "live": {"folder": str(folder), "score_wait": "20ms", "score_within": hours},
            "store": {"url": f"sqlite:///{folder / 'soak.db'}"},
            "log": {"level": "error", "format": "json"},
        },
        where="bench/soak.py",
    )


class SoakObservations(NamedTuple):
    """Observations during the daemon's run; `memory` holds (market hours since warm-up, resident MB)."""

    run: Run
    status: Status
    first: int  # when the daemon was warm (UTC ms); headlines count from then on
    last: int  # start of the last bar that counts (UTC ms)
    memory: list[tuple[float, float]]
    seconds: float


async def live(
    daemon: Daemon, clock: Clock, minutes: int, speed: float, titles: Mapping[str, int]
) -> SoakObservations:
    """Run the daemon until it has handled this much market and its headlines, or a timeout."""
    stop = asyncio.Event()
    life = asyncio.create_task(daemon.run(stop, complete=True))

    async def until(condition: Callable[[], bool], limit: float, look: float = 0.1) -> None:
        deadline = time.monotonic() + limit
        while not life.done() and not condition() and time.monotonic() < deadline:
            await asyncio.sleep(look)
        if life.done():
            raise TapewireError(f"run {life.result().id} ended early")

    await until(lambda: daemon.started and daemon.pipeline.memory.now > 0, SETTLE_TIMEOUT)
    await until(lambda: not daemon.pipeline.engine.risk.warming_up, SETTLE_TIMEOUT)
    memory, process, origin = daemon.pipeline.memory, psutil.Process(), clock.now()
    last = max(memory.bars.values()) + minutes * MINUTE_MS
    samples: list[tuple[float, float]] = []

    def over() -> bool:
        samples.append(((clock.now() - origin) / HOUR_MS, process.memory_info().rss / 1e6))
        return min(memory.bars.values()) >= last

    began, planned = time.monotonic(), minutes * 60 / speed
    await until(over, 2 * planned + SETTLE_TIMEOUT, look=min(1.0, planned / 100))
    seconds = time.monotonic() - began
    due = {title for title, published in titles.items() if origin <= published <= last}
    await until(
        lambda: not memory.unscored and due <= {news.title for news in memory.headlines.values()},
        SETTLE_TIMEOUT,
    )
    status = daemon.status()
    stop.set()
    return SoakObservations(await life, status, origin, last, samples, seconds)


def memory_line(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return resident MB at the start and after each quarter, and the slope of a line through the last half:
    in the first one, what is kept up to a number (headlines, stories) may still be filling.
    """
    settled = np.array(samples[len(samples) // 2 :])
    hours, megabytes = settled[:, 0], settled[:, 1]
    slope = float(np.polyfit(hours, megabytes, 1)[0]) if np.ptp(hours) else 0.0
    last = len(samples) - 1
    quarters = {
        name: round(samples[last * number // 4][1], 1)
        for number, name in enumerate(("start_mb", "quarter_mb", "middle_mb", "three_quarters_mb", "end_mb"))
    }
    return quarters | {"slope_mb_per_market_hour": round(slope, 3), "samples": len(samples)}


def soak(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the benchmark in an empty folder and return the line to print."""
    minutes = round(given.hours * 60)
    bars = WARM_UP + round(LAUNCH * given.speed / 60) + minutes + TAIL
    files = {source: folder / source.with_suffix(".csv").name for source in given.klines}
    played = [copy_bars(source, target, bars) for source, target in files.items()]
    truth = {bars[0].symbol: bars for bars in played}
    start = played[0][WARM_UP].start
    titles = write_headlines(
        folder / "headlines.csv", [start + minute * MINUTE_MS for minute in range(bars - WARM_UP)], given.seed
    )
    options = SandboxOptions(
        klines=tuple(files.values()),
        news=folder / "headlines.csv",
        start=start,
        speed=given.speed,
        seed=given.seed,
        feed_items=100,
        faults=tuple(replace(fault, p=min(1.0, fault.p * given.faults)) for fault in FAULTS),
    )
    with (
        closing(open_database(f"sqlite:///{folder / 'soak.db'}")) as database,
        ExchangeProcess(options) as exchange,
    ):
        info = exchange.info
        config = settings(info, list(truth), folder, given.speed, given.model)
        configure(config.log)
        titles = {title: published + info.shift for title, published in titles.items()}
        daemon = make_agent(
            config, database, load_model=model_loader(config, database), clock=info.clock, new=True
        )
        observed = asyncio.run(live(daemon, info.clock, minutes, given.speed, titles))
        closed = exchange.close()
        events = [event for _, event in read_journal(database, observed.run.id)]
        proof = verify(database, observed.run)
    moved = {
        symbol: [replace(bar, start=bar.start + info.shift) for bar in original]
        for symbol, original in truth.items()
    }
    queue, (market, feeds, model) = observed.status.queue, observed.status.producers
    bar_audit = audit_bars(events, moved, closed.withheld, observed.last)
    headlines = audit_headlines(
        events, titles, observed.first, observed.last, model["dropped"] + model["expired"] + model["waiting"]
    )
    hits: Counter[str] = Counter()
    for fault in closed.faults:
        hits[fault["kind"]] += fault["hits"]
    return {
        "benchmark": "soak",
        "passed": bar_audit.flawless and headlines.flawless and proof.identical,
        "verify": "identical" if proof.identical else f"different at event {proof.events}",
        "events": proof.events,
        "decisions": proof.decisions,
        "bars": bar_audit,
        "headlines": headlines,
        "memory": memory_line(observed.memory),
        "klines_ms": observed.status.latencies.get("Kline"),
        "queue": {
            "high_water": queue.high_water,
            "blocked": queue.blocked,
            "dropped": sum(k.dropped for k in queue.kinds.values()),
        },
        "stream": {name: market[name] for name in STREAM},
        "feeds": {name: feeds[name] for name in FEED},
        "failures": {producer["name"]: producer["failures"] for producer in observed.status.producers},
        "faults": dict(hits),
        "hours": given.hours,
        "speed": given.speed,
        "seconds": round(observed.seconds, 1),
        "symbols": list(truth),
        "seed": given.seed,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def default_klines() -> list[Path]:
    """Return the two-year files beside the checkout if present, otherwise the sample."""
    real, sample = ROOT.parent / "shared/data/klines", ROOT / "tests/sample_data"
    names = ("BTCUSDT-1m", "ETHUSDT-1m")
    found = [real / f"{name}.parquet" for name in names]
    return found if all(file.is_file() for file in found) else [sample / f"{name}.csv" for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=24.0, help="hours of market after the warm-up")
    parser.add_argument("--speed", type=float, default=1_200.0, help="1200 plays a minute in 50 ms")
    parser.add_argument("--faults", type=float, default=1.0, help="factor on the probability of every fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--klines", type=Path, nargs="+", default=default_klines(), help="SYMBOL-1m files, parquet or CSV"
    )
    parser.add_argument("--model", default="starter")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tapewire-") as folder:
        try:
            line = soak(given, Path(folder))
        except TapewireError as error:
            sys.exit(f"error: {error}")
    print_json(line)
    sys.exit(not line["passed"])


if __name__ == "__main__":
    main()
