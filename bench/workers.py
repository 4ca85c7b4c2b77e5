"""Sentiment workers over a real mosquitto: every headline scored once, one worker killed halfway, throughput against one worker.

    python bench/workers.py [--headlines 3000] [--model starter]

Prints one JSON object. Workers are processes of `tapewire worker sentiment`, one thread each; the agent's side is its own pool with the
queue that the daemon has, fed by the headlines at once. On a machine with few cores, two workers share them with the broker and this
process: the ratio says how much is left for the second one. Exit code 1 where a headline is lost or counted twice.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from agent.clock import WallClock
from agent.config_live import LiveConfig, LogConfig
from agent.config_outside import MqttConfig, WorkersConfig
from agent.events import Event, News, Sentiment
from agent.live.logging import configure
from agent.live.model import LazyScorer
from agent.live.sentiment import SentimentConsumer
from agent.mqtt.link import MqttLink, Standing
from agent.mqtt.messages import Presence, Topics
from agent.mqtt.pool import WorkerPool
from models.cards import read_card
from models.sentiment import model_dir
from models.sentiment.scorer import Scorer
from tests.mqtt.broker import mosquitto

SUBJECTS = ("Bitcoin", "Ether", "The exchange", "A miner", "The lender", "A fund", "The regulator", "A wallet maker")
VERBS = ("rallies", "slides", "pauses withdrawals", "wins approval", "beats forecasts", "faces a lawsuit", "opens an office")


def headlines(n: int) -> list[News]:
    """Made up, no two alike."""
    now = WallClock().now()
    made = []
    for number in range(n):
        tail = " ".join(hashlib.sha256(f"{number} {part}".encode()).hexdigest()[:6] for part in range(3))
        title = f"{SUBJECTS[number % len(SUBJECTS)]} {VERBS[number % len(VERBS)]} as traders weigh {tail}"
        made.append(News(f"n{number}", now, now, title))
    return made


class Workers:
    """Processes of the command line."""

    def __init__(self, broker: str, model: str, prefix: str, folder: Path) -> None:
        config = folder / f"{prefix}.toml"
        config.write_text(f'[mqtt]\nprefix = "{prefix}"\n[log]\nformat = "json"\n')
        self._arguments = [
            "-m", "agent.cli.main", "worker", "sentiment", "--config", str(config), "--broker", broker, "--model", model,
            "--threads", "1",
        ]  # fmt: skip
        self._log = (folder / "workers.log").open("w")
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """One more."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.running.append(
            await asyncio.create_subprocess_exec(sys.executable, *self._arguments, stderr=self._log, env=environment)
        )

    async def kill(self) -> None:
        """The first one, at once."""
        worker = self.running.pop(0)
        worker.kill()
        await worker.wait()

    async def stop(self) -> None:
        """All."""
        while self.running:
            await self.kill()


async def measure(broker: str, model: str, folder: Path, *, workers: int, n: int, kill: bool = False) -> dict[str, Any]:
    """Score `n` headlines by `workers`; `kill` one of them halfway."""
    config = MqttConfig(broker=broker, prefix=f"bench{workers}{kill}".lower(), outbox=50_000)
    topics = Topics(config.prefix)
    link = MqttLink(
        config, WallClock(), f"{config.prefix}-agent",
        lambda: Standing(topics.agent, Presence(state="online", run="bench"), Presence(state="offline", run="bench")),
    )  # fmt: skip
    place = model_dir(model)
    own = SentimentConsumer(
        LiveConfig(queue_news=50_000), WallClock(),
        lambda _: LazyScorer(read_card(place).fingerprint, lambda: Scorer.load(place, threads=1)),
    )  # fmt: skip
    await own.use(model)
    pool = WorkerPool(WorkersConfig(enabled=True, answer_within=600_000), link, topics, own, WallClock(), capacity=50_000)
    got: Counter[str] = Counter()
    done, half = asyncio.Event(), asyncio.Event()

    def emit(event: Event) -> None:
        if isinstance(event, Sentiment):
            got[event.news_id] += 1
            if len(got) >= n // 2:
                half.set()
            if len(got) >= n:
                done.set()

    crew = Workers(broker, str(place), config.prefix, folder)
    tasks = [asyncio.create_task(part) for part in (link.run(emit), pool.run(emit), own.run(emit))]
    try:
        for _ in range(workers):
            await crew.start()
        async with asyncio.timeout(120):
            while pool.health.workers < workers:
                await asyncio.sleep(0.05)
        news = headlines(n)
        began = time.perf_counter()
        for item in news:
            pool.offer(item)
        if kill:
            await half.wait()
            await crew.kill()
        async with asyncio.timeout(600):
            await done.wait()
        seconds = time.perf_counter() - began
    finally:
        await crew.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "headlines_a_second": round(n / seconds, 1), "scored": len(got), "twice": sum(count > 1 for count in got.values()),
        "lost": n - len(got), "resent": pool.health.resent, "own_model": pool.health.own_model,
    }  # fmt: skip


async def run(n: int, model: str) -> dict[str, Any]:
    """All three measurements."""
    configure(LogConfig(level="error"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with mosquitto(folder / "mosquitto") as broker:
            one = await measure(broker.url, model, folder, workers=1, n=n)
            two = await measure(broker.url, model, folder, workers=2, n=n)
            killed = await measure(broker.url, model, folder, workers=2, n=n, kill=True)
    return {
        "benchmark": "workers", "headlines": n, "cores": os.cpu_count(), "one": one, "two": two, "two_one_killed": killed,
        "ratio_two_to_one": round(two["headlines_a_second"] / one["headlines_a_second"], 2),
    }  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headlines", type=int, default=3_000)
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    if shutil.which("mosquitto") is None:
        raise SystemExit("mosquitto is not installed")
    result = asyncio.run(run(options.headlines, options.model))
    print(json.dumps(result))
    bad = any(part["lost"] or part["twice"] for part in (result["one"], result["two"], result["two_one_killed"]))
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
