"""A live agent with a slower model that revises its answers, until the slower model dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.core.errors import ModelError
from agent.core.events import Command, News, Sentiment, Signal
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.interfaces.running_agent import Services
from agent.live.services.metrics.prometheus import AgentMetrics
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, read_decisions, read_rows
from models.sentiment.serve.headline_score import HeadlineScore
from tests.support.live import SENTIMENT, Words, assert_sound, journal, living, of, settings, until


class Server(Words):
    """A slow model that reads each headline the other way round; once dead, it hangs."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.dead = False
        self.hangs = threading.Event()

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        if self.dead:
            self.hangs.wait(600)
            raise ConnectionResetError("the server is gone")
        return [HeadlineScore(one.bullish, one.neutral, one.bearish) for one in super().score(texts)]


def agent(
    sandbox: Sandbox, database: Database, folder: Path, load: Callable[[str], Any], **model: Any
) -> Daemon:
    config = settings(
        sandbox.rest_url,
        folder,
        strategy=SENTIMENT,
        model={"path": "fast", "revise_with": "slow", **model},
    )
    return make_agent(config, database, load_model=load, clock=sandbox.clock)


def answers(events: Sequence[Any]) -> dict[str, list[Sentiment]]:
    """Return the sentiments by headline."""
    by_headline: dict[str, list[Sentiment]] = {}
    for one in of(Sentiment, events):
        by_headline.setdefault(one.news_id, []).append(one)
    return by_headline


async def test_revisions_replace_votes_until_the_server_dies_and_nothing_waits_then(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    server = Server("slow")
    daemon = agent(
        sandbox,
        database,
        tmp_path,
        lambda folder: server if folder == "slow" else Words(folder),
        revise_within="1s",
    )
    async with living(daemon):
        assert daemon.reviser is not None
        health = daemon.reviser.health
        await until(lambda: health.revised >= 4)
        server.dead = True
        await until(lambda: health.state == "waiting")
        died_at = len(journal(database))
        before = len(answers(journal(database)))
        revised = daemon.reviser.health.revised
        await until(lambda: len(answers(journal(database))) >= before + 6)
        assert health.state == "waiting", "the server still hangs"
        status = daemon.status()
        metrics = {
            (sample.name, *sample.labels.values()): sample.value
            for metric in AgentMetrics(daemon).collect()
            for sample in metric.samples
        }
    (row,) = (source for source in status.producers if source["name"] == "revision")
    assert (status.model, status.revising_model) == ("fast", "slow")
    assert (row["vital"], row["model"], row["revised"]) == (False, "slow", revised)
    assert row["late"] >= 1
    assert row["last_error"] == "no answer within 1s"
    assert metrics["tapewire_source_revised_total", "revision"] == revised
    assert metrics["tapewire_source_late_total", "revision"] >= 1
    assert metrics["tapewire_sentiments_total", "revised"] == status.headlines["revised"]
    assert status.spans["sentiment to revision"]["n"] >= 4
    events = assert_sound(database, "latest", daemon.config)
    pairs = [made for made in answers(events).values() if len(made) == 2]
    assert len(pairs) == revised
    assert {tuple((one.model, one.provisional) for one in pair) for pair in pairs} == {
        (("fast", True), ("slow", False))
    }
    assert max(map(len, answers(events).values())) == 2
    late = of(Sentiment, events[died_at:])
    assert len(late) >= 6
    assert {one.model for one in late} == {"fast"}
    assert max(one.latency_ms for one in late) < 10_000
    assert len(list(read_rows(database, find_run(database).id, Sentiment))) == len(of(Sentiment, events))
    made = [item.decision for item in read_decisions(database, find_run(database).id)]
    assert status.headlines["revised"] >= 1
    assert of(Signal, made)
    server.hangs.set()


async def test_the_agent_runs_without_a_revising_model_that_cannot_be_loaded(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    def load(folder: str) -> Words:
        if folder == "slow":
            raise ModelError("slow: no such folder")
        return Words(folder)

    daemon = agent(sandbox, database, tmp_path, load)
    async with living(daemon):
        await until(lambda: len(answers(journal(database))) >= 4)
        await until(lambda: daemon.reviser is not None and daemon.reviser.health.errors >= 2)
        status = daemon.status()
    assert (status.model, status.revising_model) == ("fast", "")
    (row,) = (source for source in status.producers if source["name"] == "revision")
    assert row["last_error"] == "slow: no such folder"
    events = assert_sound(database, "latest", daemon.config)
    assert not any(one.provisional for one in of(Sentiment, events))


async def test_the_drift_of_the_first_model_is_judged_by_its_own_answers(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    server = Server("slow")
    daemon = agent(sandbox, database, tmp_path, lambda folder: server if folder == "slow" else Words(folder))
    async with living(daemon):
        assert daemon.reviser is not None
        health = daemon.reviser.health
        await until(lambda: health.revised >= 4)
        status = daemon.status()
    assert status.model_drift is not None
    assert status.model_drift.drift.model == "fast"
    assert status.model_drift.drift.headlines > 4
    assert "stop" in {one.action for one in of(Command, journal(database))}
    assert of(News, journal(database))


class Pool:
    """Workers in place of the local model, as `WorkerPool` is."""

    name = "workers"

    def __init__(self) -> None:
        self.health = Health(self.name, state="live")
        self._offered: asyncio.Queue[News] = asyncio.Queue()

    def offer(self, news: News) -> None:
        self._offered.put_nowait(news)

    async def run(self, emit: Emit) -> None:
        while True:
            news = await self._offered.get()
            at = news.available_at
            await deliver(emit, Sentiment(news.id, at, at, 0.05, 0.05, 0.9, "fast"))


async def test_answers_of_workers_are_revised_too(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    local = Words("fast")
    daemon = agent(sandbox, database, tmp_path, lambda folder: Server("slow") if folder == "slow" else local)
    daemon.attach(Services(scorer=Pool()))
    async with living(daemon):
        assert daemon.reviser is not None
        health = daemon.reviser.health
        await until(lambda: health.revised >= 2)
    pairs = [made for made in answers(assert_sound(database, "latest", daemon.config)).values() if made[1:]]
    assert {tuple((one.model, one.provisional) for one in pair) for pair in pairs} == {
        (("fast", True), ("slow", False))
    }
    assert local.batches == []
