"""Runs many symbols and a stream of headlines on one core; prints one JSON line.

    python -m bench.load [--symbols 200] [--headlines 20] [--seconds 60] [--feeds 4] [--model starter]
                         [--every 0s] [--against DIR [--rounds 3]]

The sandbox plays in real time in another process on the other cores. Every symbol's bar moves once a second,
all in the same instant, which is harder than a real venue. The daemon and its model have one core. Latencies
are in ms:

    sent_to_handled      from the venue's timestamp in the message to the end of the batch that handled it;
                         includes the venue's own queue and both sockets, so socket to handled is less
    arrived_to_handled   the same from the reading of the message, without the venue and the sockets: for a
                         close, which has no send time, the only one
    queued_to_recorded   from decoded to handled and recorded, as in `tapewire status`
    arrived_to_sentiment from the arrival of a feed's document, parsed, to the sentiment being handled

`cpu_us_a_kline` is the daemon's CPU time by the number of open-bar updates, with all else that it does: with
`--headlines 0` hardly anything. By default every update is journalled; `--every 15s` samples them as the
default configuration does, and only those that reach the core are measured.

`--against DIR` runs the same with the code of another checkout, by turns, and prints both and their ratio.

The queue's `deepest` is sampled every 5 ms during the measurement, with `--headlines 0` every second, so that
`core_busy` is the daemon's alone; its `high_water` includes the warm-up.

    --symbols 10 --headlines 0 --every 15s     an idle agent, whose feeds are polled once a minute

"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

ONE: Final = max(os.sched_getaffinity(0))
OTHERS: Final = frozenset(os.sched_getaffinity(0) - {ONE}) or frozenset({ONE})
if __name__ == "__main__":
    os.sched_setaffinity(0, {ONE})  # before any library starts threads, which inherit it

sys.path.append(str(Path(__file__).resolve().parent.parent))

from agent.cli.console import print_json  # noqa: E402
from agent.config import Config, parse  # noqa: E402
from agent.core.errors import TapewireError  # noqa: E402
from agent.core.events import Decision, Event, Kline, News, Sentiment  # noqa: E402
from agent.live.app import make_agent  # noqa: E402
from agent.live.daemon import Daemon  # noqa: E402
from agent.live.event_queue import OPEN_BAR  # noqa: E402
from agent.live.log import configure  # noqa: E402
from agent.live.model_loader import model_loader  # noqa: E402
from agent.live.status_report import Status  # noqa: E402
from agent.sandbox import SandboxOptions  # noqa: E402
from agent.sandbox.feed_server import slug  # noqa: E402
from agent.store.database import open_database  # noqa: E402
from agent.system.clock import Clock  # noqa: E402
from bench import interleaved  # noqa: E402
from bench.exchange_process import ExchangeInfo, ExchangeProcess, copy_bars, write_headlines  # noqa: E402

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLE: Final = ROOT / "tests/sample_data/BTCUSDT-1m.csv"
WARM_UP: Final = 60  # bars
SETTLE: Final = 3.0  # seconds after the warm-up that are not measured
LAUNCH: Final = 60  # maximum seconds until the daemon is warm


class LatencyRecorder:
    """Observer that records when the batch of an event has been handled. Only live bars count."""

    def __init__(self, clock: Clock) -> None:
        self.running = False
        self.taken: defaultdict[str, list[int]] = defaultdict(list)  # ms, by kind
        self._clock = clock
        self._batch: list[tuple[str, int]] = []
        self._arrived: dict[str, int] = {}  # headlines without a sentiment so far

    def event(self, seq: int, event: Event) -> None:
        """Record when the event was sent."""
        match event:
            case Kline(confirm=False):
                self._note("klines", event.ts)
                self._note("klines read", event.available_at)
            case Kline():
                self._note("closes", event.available_at)
            case News():
                self._arrived[event.id] = event.available_at
            case Sentiment():
                self._note("headlines", self._arrived.pop(event.news_id, event.available_at))

    def decision(self, seq: int, decision: Decision) -> None:
        """Do nothing."""

    def _note(self, kind: str, since: int) -> None:
        if not self._batch:
            # The core handles a batch without yielding, so this runs at the end of the batch
            asyncio.get_running_loop().call_soon(self._handled)
        self._batch.append((kind, since))

    def _handled(self) -> None:
        now = self._clock.now()
        for kind, since in self._batch if self.running else ():
            self.taken[kind].append(now - since)
        self._batch.clear()

    def summary(self, kind: str) -> dict[str, float]:
        """Return `n`, `p50`, `p99` and `max` in ms; the clock's resolution is 1 ms."""
        taken = np.array(self.taken[kind] or [0])
        return {
            "n": len(self.taken[kind]),
            "p50": float(np.quantile(taken, 0.5)),
            "p99": float(np.quantile(taken, 0.99)),
            "max": float(taken.max()),
        }


def settings(
    info: ExchangeInfo,
    symbols: Sequence[str],
    publishers: Sequence[str],
    folder: Path,
    model: str,
    every: str = "0s",
    poll: str = "1s",
) -> Config:
    """Return the default configuration with the benchmark's sources and model."""
    feeds = [
        {"url": f"{info.url}/feeds/{slug(name)}.rss", "name": name, "interval": poll} for name in publishers
    ]
    return parse(
        {
            "market": {"symbols": list(symbols)},
            "model": {"path": model, "threads": 1},
            "bybit": {"endpoint": info.url, "warmup_bars": WARM_UP, "max_requests": 600},
            "news": {"feeds": feeds, "spread": "1s"},
            "live": {"folder": str(folder), "open_bars_every": every},
            "store": {"url": f"sqlite:///{folder / 'load.db'}"},
            "log": {"level": "error", "format": "json"},
        },
        where="bench/load.py",
    )


async def live(
    daemon: Daemon, recorder: LatencyRecorder, seconds: float, sample: float
) -> tuple[Status, int, float]:
    """Measure for `seconds` once the daemon is warm.

    Returns its status, the maximum depth of the queue (sampled every `sample` seconds), and the used share of
    the core.
    """
    stop = asyncio.Event()
    life = asyncio.create_task(daemon.run(stop, complete=True))
    async with asyncio.timeout(LAUNCH):
        while not life.done() and (
            not daemon.started or daemon.pipeline.memory.now == 0 or daemon.pipeline.engine.risk.warming_up
        ):
            await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLE)
    daemon.pipeline.latencies.clear()
    recorder.running = True
    depths, began = [], os.times()
    until = asyncio.get_running_loop().time() + seconds
    while not life.done() and asyncio.get_running_loop().time() < until:
        depths.append(len(daemon.queue))
        await asyncio.sleep(sample)
    ended = os.times()
    share = (ended.user + ended.system - began.user - began.system) / (ended.elapsed - began.elapsed)
    recorder.running = False
    if life.done():
        raise TapewireError(f"run {life.result().id} ended early")
    status = daemon.status()
    stop.set()
    await life
    return status, max(depths), share


def load(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the benchmark in an empty folder and return the line to print."""
    symbols = [f"LD{number:03}USDT" for number in range(given.symbols)]
    publishers = [f"Load Wire {number}" for number in range(1, given.feeds + 1)]
    length = LAUNCH + round(SETTLE + given.seconds)
    file = folder / "market-1m.csv"
    bars = copy_bars(SAMPLE, file, WARM_UP + length // 60 + 2)
    start = bars[WARM_UP].start
    count = length * given.headlines
    times = [start + number * 1_000 // given.headlines for number in range(count)]
    write_headlines(folder / "headlines.csv", times or [start], 1, publishers)
    options = SandboxOptions(
        klines=tuple(Path(f"{symbol}={file}") for symbol in symbols),
        news=folder / "headlines.csv",
        start=start,
        feed_items=max(10, 3 * given.headlines // given.feeds),
    )
    with (
        closing(open_database(f"sqlite:///{folder / 'load.db'}")) as database,
        ExchangeProcess(options, OTHERS) as exchange,
    ):
        info = exchange.info
        poll = "1s" if given.headlines else "1m"  # as the default feeds
        config = settings(info, symbols, publishers, folder, given.model, given.every, poll)
        configure(config.log)
        daemon = make_agent(
            config, database, load_model=model_loader(config, database), clock=info.clock, new=True
        )
        recorder = LatencyRecorder(info.clock)
        daemon.observe(recorder)
        status, deepest, share = asyncio.run(
            live(daemon, recorder, given.seconds, 0.005 if given.headlines else 1.0)
        )
        exchange.close()
    dropped = sum(kind.dropped for kind in status.queue.kinds.values())
    return {
        "benchmark": "load",
        "symbols": given.symbols,
        "headlines_a_second": given.headlines,
        "feeds": given.feeds,
        "seconds": given.seconds,
        "klines_a_second": round(len(recorder.taken["klines"]) / given.seconds, 1),
        "coalesced": status.queue.kinds[OPEN_BAR].coalesced,
        "queue": {
            "deepest": deepest,
            "high_water": status.queue.high_water,
            "blocked": status.queue.blocked,
            "dropped": dropped,
        },
        "klines": {
            "sent_to_handled": recorder.summary("klines"),
            "arrived_to_handled": recorder.summary("klines read"),
            "queued_to_recorded": status.latencies[OPEN_BAR],
        },
        "closes": {
            "arrived_to_handled": recorder.summary("closes"),
            "queued_to_recorded": status.latencies.get("Kline"),
        },
        "headlines": {"arrived_to_sentiment": recorder.summary("headlines")},
        "target_p99_ms": 20,
        "core_busy": round(share, 3),
        "cpu_us_a_kline": round(share * given.seconds / (given.symbols * given.seconds) * 1e6, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=200)
    parser.add_argument("--headlines", type=int, default=20, help="headlines per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--feeds", type=int, default=4, help="number of feeds; each is polled once a second")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--every", default="0s", help="least time between two journalled states of a bar")
    interleaved.add_arguments(parser)
    given = parser.parse_args()
    if given.against is not None:
        print_json(interleaved.compare(__file__, given))
        return
    with tempfile.TemporaryDirectory(prefix="tapewire-") as folder:
        try:
            line = load(given, Path(folder))
        except TapewireError as error:
            sys.exit(f"error: {error}")
    print_json(line)


if __name__ == "__main__":
    main()
