"""Measures sentiment workers over a real mosquitto: scored once, a killed worker, throughput.

    python -m bench.workers [--headlines 1500] [--model starter]

A daemon runs on a sandbox exchange, with workers that are processes of `tapewire worker sentiment`, one
thread each. The given number of headlines arrives at once three times: for one worker, for two, and for two
of which one is killed (SIGKILL) when half is done. The journal counts: `once` is the number of headlines with
exactly one sentiment in it, `daemon_busy` the daemon's share of a core. `bare` is the throughput of the model
called directly in one and in two processes, in the same batches, measured just before: the capacity of the
machine. On a machine with few cores the workers share them with the broker, the daemon and the exchange, so
the ratio shows the capacity left for the second one.

Prints one JSON line. The exit code is 1 if a headline has no sentiment or two, or the run doesn't verify.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

from agent.cli.console import print_json
from agent.config import Config, parse
from agent.core.errors import TapewireError
from agent.core.events import Decision, Event, News, Sentiment
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.log import configure
from agent.live.model_loader import model_loader
from agent.live.services.mqtt.worker_pool import WorkerPool
from agent.replay.verify import verify
from agent.sandbox import SandboxOptions
from agent.store.database import open_database
from agent.store.journal import read_journal
from agent.store.runs import Run
from bench.exchange_process import ExchangeProcess, copy_bars
from models.sentiment import model_dir
from models.sentiment.serve.scorer import Scorer
from tests.support.mosquitto import mosquitto

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLE: Final = ROOT / "tests/sample_data/BTCUSDT-1m.csv"
BARS: Final = 90  # bars of history and of the benchmark's duration
SETTLE_TIMEOUT: Final = 200.0  # seconds for a phase
BATCH: Final = 32
PHASES: Final = ("one", "two", "killed")

_SUBJECTS: Final = (
    "Bitcoin",
    "Ether",
    "The exchange",
    "A miner",
    "The lender",
    "A fund",
    "The regulator",
    "A wallet maker",
)
_VERBS: Final = (
    "rallies",
    "slides",
    "pauses withdrawals",
    "wins approval",
    "beats forecasts",
    "faces a lawsuit",
    "opens shop",
)


def titles(n: int, phase: str) -> list[str]:
    """Return generated titles without duplicates."""
    return [
        f"{_SUBJECTS[i % len(_SUBJECTS)]} {_VERBS[i % len(_VERBS)]}, bulletin {i} of the {phase} desk"
        for i in range(n)
    ]


class SentimentCounter:
    """Observer that counts sentiments."""

    def __init__(self) -> None:
        self._seen = 0
        self._more = asyncio.Event()

    def event(self, seq: int, event: Event) -> None:
        if isinstance(event, Sentiment):
            self._seen += 1
            self._more.set()

    def decision(self, seq: int, decision: Decision) -> None:
        """Do nothing."""

    async def reaches(self, number: int) -> None:
        """Wait until this many have been counted since the start."""
        async with asyncio.timeout(SETTLE_TIMEOUT):
            while self._seen < number:
                self._more.clear()
                await self._more.wait()


class WorkerProcesses:
    def __init__(self, broker: str, model: str, folder: Path) -> None:
        (folder / "worker.toml").write_text('[log]\nformat = "json"\n')
        self._command = [
            sys.executable,
            "-m",
            "agent.cli.main",
            "worker",
            "sentiment",
            "--config",
            str(folder / "worker.toml"),
            "--broker",
            broker,
            "--model",
            model,
            "--threads",
            "1",
            "--batch",
            str(BATCH),
        ]
        self._folder = folder
        self._running: list[Popen[bytes]] = []

    def start(self) -> None:
        """Start a worker."""
        log = (self._folder / f"worker-{len(self._running)}.log").open("wb")
        with log:
            self._running.append(
                Popen(
                    self._command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
                )
            )

    def kill(self) -> None:
        """Kill the first worker."""
        worker = self._running.pop(0)
        worker.kill()
        worker.wait()

    @contextmanager
    def at_work(self) -> Iterator[WorkerProcesses]:
        """Run, and end all workers at the end."""
        try:
            yield self
        finally:
            while self._running:
                self.kill()


def settings(url: str, broker: str, model: str, folder: Path, n: int) -> Config:
    """Return the default configuration with the benchmark's sources and model."""
    return parse(
        {
            "market": {"symbols": ["BTCUSDT"]},
            "model": {"path": model, "threads": 1},
            "bybit": {"endpoint": url, "warmup_bars": 30},
            "news": {"feeds": [{"url": f"{url}/feeds/all.rss", "interval": "1h"}]},
            "live": {"folder": str(folder), "queue_news": max(1_000, n)},
            "store": {"url": f"sqlite:///{folder / 'workers.db'}"},
            "mqtt": {"broker": broker},
            "workers": {"enabled": True, "answer_within": "10m"},
            "log": {"level": "error", "format": "json"},
        },
        where="bench/workers.py",
    )


async def run_phase(
    daemon: Daemon, pool: WorkerPool, counter: SentimentCounter, workers: WorkerProcesses, n: int, name: str
) -> dict[str, Any]:
    """Queue all headlines at once; in the phase `killed` one worker dies halfway."""
    scored = n * PHASES.index(name)
    async with asyncio.timeout(SETTLE_TIMEOUT):
        while pool.health.workers != min(2, PHASES.index(name) + 1):
            await asyncio.sleep(0.05)
    before = pool.health.resent, pool.health.own_model
    now, began = daemon.pipeline.memory.now, os.times()
    for number, title in enumerate(titles(n, name)):
        await daemon.queue.put(News(f"{name}-{number}", now, now, title))
    if name == "killed":
        await counter.reaches(scored + n // 2)
        workers.kill()
    await counter.reaches(scored + n)
    ended = os.times()
    seconds = ended.elapsed - began.elapsed
    return {
        "headlines_a_second": round(n / seconds, 1),
        "daemon_busy": round((ended.user + ended.system - began.user - began.system) / seconds, 2),
        "asked_again": pool.health.resent - before[0],
        "own_model": pool.health.own_model - before[1],
    }


async def live(daemon: Daemon, workers: WorkerProcesses, n: int) -> tuple[Run, dict[str, dict[str, Any]]]:
    """Run the daemon and all phases."""
    counter, stop = SentimentCounter(), asyncio.Event()
    daemon.observe(counter)
    life = asyncio.create_task(daemon.run(stop, complete=True))
    work = asyncio.create_task(run_phases(daemon, counter, workers, n))
    await asyncio.wait({life, work}, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        work.cancel()
        raise TapewireError(f"run {life.result().id} ended early")
    stop.set()
    return await life, await work


async def run_phases(
    daemon: Daemon, counter: SentimentCounter, workers: WorkerProcesses, n: int
) -> dict[str, dict[str, Any]]:
    """Run the phases one after the other, with one more worker each until there are two."""
    async with asyncio.timeout(SETTLE_TIMEOUT):
        while not daemon.started or daemon.pipeline.engine.risk.warming_up:
            await asyncio.sleep(0.05)
    pool = daemon.services.scorer
    if pool is None:
        raise TapewireError("the daemon has no workers")
    phases: dict[str, dict[str, Any]] = {}
    for name in PHASES:
        if name != "killed":
            workers.start()
        phases[name] = await run_phase(daemon, pool, counter, workers, n, name)
    return phases


_scorer: Scorer | None = None  # scorer of a process of `bare`


def _open(model: str) -> None:
    global _scorer
    _scorer = Scorer.load(model_dir(model), threads=1)


def _score(texts: list[str]) -> int:
    if _scorer is None:
        raise TapewireError("no model is open")
    return len(_scorer.score(texts))


def bare(model: str, n: int, processes: int) -> float:
    """Return headlines per second of the model called directly in this many processes."""
    texts = titles(n, "bare")
    with ProcessPoolExecutor(processes, get_context("spawn"), _open, (model,)) as pool:
        list(pool.map(_score, [texts[:BATCH]] * 2 * processes))  # starts all processes
        began = time.perf_counter()
        scored = sum(pool.map(_score, [texts[first : first + BATCH] for first in range(0, n, BATCH)]))
        return scored / (time.perf_counter() - began)


def measure(n: int, model: str, folder: Path) -> tuple[dict[str, Any], bool]:
    """Return the line to print, and whether all checks passed."""
    floor = {processes: bare(model, n, processes) for processes in (1, 2)}
    bars = copy_bars(SAMPLE, folder / "BTCUSDT-1m.csv", BARS)
    options = SandboxOptions(klines=(folder / "BTCUSDT-1m.csv",), start=bars[BARS // 2].start)
    with (
        mosquitto(folder / "mosquitto") as broker,
        closing(open_database(f"sqlite:///{folder / 'workers.db'}")) as database,
        ExchangeProcess(options) as exchange,
        WorkerProcesses(broker.url, model, folder).at_work() as workers,
    ):
        config = settings(exchange.info.url, broker.url, model, folder, n)
        configure(config.log)
        load = model_loader(config, database, lazy=True)
        daemon = make_agent(config, database, load_model=load, clock=exchange.info.clock, new=True)
        run, phases = asyncio.run(live(daemon, workers, n))
        exchange.close()
        counts = Counter(
            event.news_id for _, event in read_journal(database, run.id) if isinstance(event, Sentiment)
        )
        identical = verify(database, run).identical
    for name, line in phases.items():
        line["once"] = sum(counts[f"{name}-{number}"] == 1 for number in range(n))
    line = {
        "benchmark": "workers",
        "headlines": n,
        "model": model,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "bare": {"one": round(floor[1], 1), "two": round(floor[2], 1)},
        **phases,
        "verify": "identical" if identical else "different",
        "ratio_two_to_one": round(
            phases["two"]["headlines_a_second"] / phases["one"]["headlines_a_second"], 2
        ),
        "ratio_two_to_one_bare": round(floor[2] / floor[1], 2),
        "ratio_two_to_bare": round(phases["two"]["headlines_a_second"] / floor[2], 2),
    }
    return line, identical and counts.total() == 3 * n and all(one["once"] == n for one in phases.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--headlines", type=int, default=1_500, help="headlines per phase")
    parser.add_argument("--model", default="starter")
    given = parser.parse_args()
    if shutil.which("mosquitto") is None:
        sys.exit("error: mosquitto is not installed (apt-get install mosquitto)")
    with tempfile.TemporaryDirectory(prefix="tapewire-") as folder:
        try:
            line, sound = measure(given.headlines, given.model, Path(folder))
        except TapewireError as error:
            sys.exit(f"error: {error}")
    print_json(line)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
