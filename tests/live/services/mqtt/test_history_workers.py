"""A history is scored by the running workers: the scores of one process, each once, even if a worker dies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config.services import MqttConfig
from agent.core.errors import ModelError, UsageError, VenueError
from agent.core.symbols import AssetFinder
from agent.live.services.mqtt.history_workers import WorkerScoring
from agent.live.services.mqtt.sentiment_worker import SentimentWorker
from agent.store.database import Database, open_database
from models.sentiment import model_dir
from models.sentiment.serve.history_scoring import score_history
from models.sentiment.serve.score_cache import SCORES, CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer
from tests.cli.conftest import Outcome, tapewire
from tests.conftest import ROOT
from tests.live.services.mqtt.test_workers import working
from tests.support.mosquitto import Mosquitto, needs_mosquitto

__all__ = ["tapewire"]

pytestmark = needs_mosquitto
_SUBJECTS = ("Bitcoin", "Ether and Solana", "The exchange", "XRP", "", "Der Kurs und der Markt")
TEXTS = [f"{subject} rallies, bulletin {number}" for number in range(110) for subject in _SUBJECTS]


def rows_of(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(SCORES.select().order_by(SCORES.c.text_hash))]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[[str], Database]]:
    with ExitStack() as stack:

        def new(name: str) -> Database:
            database = open_database(f"sqlite:///{tmp_path / f'{name}.db'}")
            stack.callback(database.close)
            return database

        yield new


def scoring_by(broker: Mosquitto, scorer: Scorer, **how: Any) -> WorkerScoring:
    config = MqttConfig(**broker.settings())
    return WorkerScoring(config, scorer.fingerprint, scorer.names, **({"inflight": 64, "find": 10.0} | how))


async def by_workers(database: Database, scorer: Scorer, workers: WorkerScoring, **how: Any) -> None:
    cached = CachedScorer(scorer, SqlScoreCache(database))
    await asyncio.to_thread(score_history, cached, TEXTS, embedded=False, score_blocks=workers, **how)


def by_one_thread(database: Database, scorer: Scorer) -> list[tuple[Any, ...]]:
    score_history(CachedScorer(scorer, SqlScoreCache(database)), TEXTS, embedded=False)
    return rows_of(database)


@pytest.fixture
def reader(tmp_path: Path, write_reader: Callable[..., Path]) -> Scorer:
    return Scorer.load(write_reader(tmp_path / "reader"), threads=1)


async def test_workers_store_what_one_thread_stores(
    broker: Mosquitto, reader: Scorer, stores: Callable[[str], Database]
) -> None:
    """With the reasons of abstentions, and the shares of unknown tokens."""
    workers, seen = scoring_by(broker, reader), list[tuple[int, int]]()
    async with working(broker, reader, "one"), working(broker, reader, "two"):
        await by_workers(stores("workers"), reader, workers, progress=lambda *counts: seen.append(counts))
    stored = rows_of(stores("workers"))
    assert stored == by_one_thread(stores("here"), reader)
    assert any(row.abstained and row.reason for row in map(_named, stored))
    assert sum(workers.by_worker.values()) == len(TEXTS)
    assert seen == sorted(seen)
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def _named(row: tuple[Any, ...]) -> Any:
    return type("Row", (), dict(zip(SCORES.c.keys(), row, strict=True)))


async def test_workers_with_other_names_are_refused(
    broker: Mosquitto, reader: Scorer, tmp_path: Path, stores: Callable[[str], Database]
) -> None:
    """Their assets would get into the cache under the names of this command."""
    other = Scorer.load(tmp_path / "reader", threads=1, finder=AssetFinder(["NEWCOINUSDT"]))
    async with working(broker, other, "other"):
        with pytest.raises(UsageError, match="worker other finds assets by other names"):
            await by_workers(stores("workers"), reader, scoring_by(broker, reader))
    assert rows_of(stores("workers")) == []


async def test_a_worker_with_another_model_is_none(
    broker: Mosquitto, reader: Scorer, stores: Callable[[str], Database]
) -> None:
    starter = Scorer.load(model_dir("starter"), threads=1)
    async with working(broker, starter, "starter"):
        with pytest.raises(UsageError, match="no worker at mqtt"):
            await by_workers(stores("workers"), reader, scoring_by(broker, reader, find=0.5))


async def test_without_a_broker_the_error_names_it(reader: Scorer, stores: Callable[[str], Database]) -> None:
    config = MqttConfig(broker="mqtt://127.0.0.1:9", timeout="200ms")
    workers = WorkerScoring(config, reader.fingerprint, reader.names, inflight=64, find=0.2)
    with pytest.raises(VenueError, match="can't be reached"):
        await by_workers(stores("workers"), reader, workers)


class Mute(SentimentWorker):
    """A worker that takes headlines and never answers."""

    async def _score(self, batch: dict[str, str]) -> None:
        """Do nothing."""


async def test_workers_that_stop_responding_are_an_error_and_nothing_waits_for_ever(
    broker: Mosquitto, reader: Scorer, stores: Callable[[str], Database]
) -> None:
    worker = Mute(MqttConfig(**broker.settings()), reader, "mute")
    task = asyncio.create_task(worker.run())
    workers = scoring_by(broker, reader, silence=0.3)
    with pytest.raises(ModelError, match="don't respond"):
        await by_workers(stores("workers"), reader, workers)
    assert workers.resent > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextmanager
def worker_process(broker: Mosquitto, folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "worker.toml"
    config.write_text('[log]\nformat = "json"\n')
    command = [sys.executable, "-m", "agent.cli.main", "worker", "sentiment", "--config", str(config)]
    command += ["--broker", broker.url, "--name", name, "--threads", "1", "--batch", "8"]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
async def test_a_killed_worker_loses_nothing(
    broker: Mosquitto, tmp_path: Path, stores: Callable[[str], Database]
) -> None:
    finder = AssetFinder(("BTCUSDT", "ETHUSDT"), {})
    starter = Scorer.load(model_dir("starter"), threads=1, finder=finder)
    workers = scoring_by(broker, starter, find=60.0)
    with worker_process(broker, tmp_path, "first") as first, worker_process(broker, tmp_path, "second"):

        def kill(done: int, total: int) -> None:
            if done > 0 and "first" in workers.by_worker:
                first.kill()

        await by_workers(stores("workers"), starter, workers, progress=kill)
        assert first.wait() != 0
    assert rows_of(stores("workers")) == by_one_thread(stores("here"), starter)
    assert set(workers.by_worker) == {"first", "second"}
    assert workers.by_worker.total() == len(TEXTS)


def test_the_command_needs_the_broker_of_the_workers(tapewire: Callable[..., Outcome]) -> None:
    outcome = tapewire("backtest", "--mqtt-workers")
    assert outcome.code == 2
    assert "--mqtt-workers needs a broker" in outcome.err
