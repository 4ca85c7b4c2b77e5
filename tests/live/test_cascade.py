"""A live agent with a slower model that revises its answers, until the slower model dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.core.errors import ModelError
from agent.core.events import Command, Event, News, Sentiment, Signal
from agent.data.given_up import causes_of
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.interfaces.running_agent import Services
from agent.live.services.metrics.prometheus import AgentMetrics
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.journal import decode, read_journal_rows
from agent.store.queries import find_run, list_runs, read_decisions, read_rows
from models.sentiment.serve.headline_score import HeadlineScore
from tests.conftest import ROOT
from tests.support.live import (
    PATIENCE,
    SENTIMENT,
    Words,
    assert_sound,
    journal,
    living,
    of,
    options,
    settings,
    until,
)
from tests.support.llm_server import Fault, LlmServer


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


@pytest.mark.slow
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


# -- over a restart ------------------------------------------------------------------------------------


SLOWER = 240.0


class KilledAgent:
    """An agent in a process of its own, whose reviser is at `server`; `kill` is SIGKILL."""

    def __init__(self, sandbox: Sandbox, folder: Path, server: LlmServer, within: str) -> None:
        now, anchor = sandbox.clock.now(), time.time_ns() // 1_000_000
        arguments = (sandbox.rest_url, folder, now, anchor, SLOWER, server.path, within)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.agent_child", *map(str, arguments)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> KilledAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(30)


def recorded(database: Database) -> list[Event]:
    """Return the events other than bars of the run that another process records; none before it begins."""
    rows = (row for run in list_runs(database, 1) for row in read_journal_rows(database, run.id))
    return [decode(row.payload) for row in rows if row.kind != "Kline"]


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait as `until` does, and leave the processor to the other process."""
    async with asyncio.timeout(2 * PATIENCE):
        while not condition():
            await asyncio.sleep(0.1)


@pytest.fixture
async def slower() -> AsyncIterator[Sandbox]:
    """Sandbox at a speed at which a busy machine reads the headlines while they come."""
    async with Sandbox(options(news=True, speed=SLOWER)) as running:
        yield running


def waiting(events: Sequence[Event]) -> set[str]:
    return {id_ for id_, made in answers(events).items() if len(made) == 1 and made[0].provisional}


def causes(events: Sequence[Event]) -> dict[str, str]:
    """Cause by headline whose revision was given up."""
    return {id_: cause for one in of(Command, events) for id_, cause in causes_of(one).items()}


@pytest.mark.slow
async def test_headlines_that_wait_for_a_revision_when_the_agent_is_killed_are_revised_after_the_restart(
    slower: Sandbox, database: Database, tmp_path: Path
) -> None:
    """The server answers no request of the first life. The deadline of 100 days passes in neither."""
    with LlmServer(script=lambda _: Fault("slow", seconds=600)) as server:
        with KilledAgent(slower, tmp_path, server, "100d") as first:
            await eventually(lambda: len(waiting(recorded(database))) >= 3 and server.requests)
            first.kill()
        left = waiting(recorded(database))
        asked = len(server.requests)
        server.script = lambda _: None
        with KilledAgent(slower, tmp_path, server, "100d") as second:
            await eventually(lambda: not left & waiting(recorded(database)))
            assert second.stop() == 0
        assert len(server.requests) >= asked + len(left)
    events = assert_sound(database, "latest", settings_of(slower, tmp_path))
    assert len([one for one in of(Command, events) if one.action == "life"]) == 2
    by_headline = answers(events)
    assert {len(by_headline[id_]) for id_ in left} == {2}
    assert all(by_headline[id_][1].provenance is not None for id_ in left)
    assert not left & causes(events).keys()
    count = len(server.requests)
    assert verify(database, find_run(database)).identical
    assert len(server.requests) == count, "a replay asks no model"


@pytest.mark.slow
async def test_after_the_deadline_a_restart_gives_the_revisions_up_and_says_so(
    slower: Sandbox, database: Database, tmp_path: Path
) -> None:
    """Ten minutes of market pass in 2.5 s; the first life ends long before ten of its own."""
    with LlmServer(script=lambda _: Fault("slow", seconds=600)) as server:
        with KilledAgent(slower, tmp_path, server, "10m") as first:
            await eventually(lambda: len(waiting(recorded(database))) >= 3 and server.requests)
            first.kill()
        left = waiting(recorded(database))
        last = max(answers(recorded(database))[id_][0].available_at for id_ in left)
        await eventually(lambda: slower.clock.now() > last + 600_000)
        asked = len(server.requests)
        with KilledAgent(slower, tmp_path, server, "10m") as second:
            await eventually(lambda: left <= causes(recorded(database)).keys())
            second.kill()
        assert not {one.headline for one in server.requests[asked:]} & titles(recorded(database), left)
        with KilledAgent(slower, tmp_path, server, "10m") as third:
            await eventually(lambda: lives(recorded(database)) == 3)
            before = len(recorded(database))
            await eventually(lambda: len(recorded(database)) > before + 3)
            assert third.stop() == 0
    events = assert_sound(database, "latest", settings_of(slower, tmp_path))
    assert {causes(events)[id_] for id_ in left} == {"outlived"}
    named = [id_ for one in of(Command, events) for id_ in causes_of(one)]
    assert len(named) == len(set(named)), "each is given up once"
    assert {len(answers(events)[id_]) for id_ in left} == {1}


def settings_of(sandbox: Sandbox, folder: Path) -> Config:
    return settings(sandbox.rest_url, folder, strategy=SENTIMENT)


def titles(events: Sequence[Event], ids: set[str]) -> set[str]:
    return {one.title for one in of(News, events) if one.id in ids}


def lives(events: Sequence[Event]) -> int:
    return len([one for one in of(Command, events) if one.action == "life"])
