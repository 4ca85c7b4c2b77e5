"""Each headline gets one sentiment or goes to the agent's own model once, however workers behave."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.live import LiveConfig
from agent.config.services import MqttConfig, WorkersConfig
from agent.core.events import Event, News, Sentiment
from agent.live.scoring import SentimentConsumer
from agent.live.services.mqtt.connection import MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import (
    AssetScore,
    Headline,
    HeadlineScore,
    Presence,
    Scores,
    Topics,
    WorkerPresence,
    encode,
)
from agent.live.services.mqtt.worker_pool import WorkerPool
from agent.system.clock import WallClock
from tests.support.live import Words, load_words

MODEL = "model"

STEPS = st.one_of(
    st.just(("offer",)),
    st.tuples(
        st.just("worker"), st.sampled_from("ab"), st.booleans(), st.sampled_from([MODEL, MODEL, "another"])
    ),
    st.tuples(
        st.just("answer"), st.integers(0, 30), st.sampled_from([MODEL, MODEL, "another"]), st.booleans()
    ),
    st.tuples(st.just("core takes"), st.booleans()),
    st.tuples(st.just("turn"), st.integers(1, 5)),
)


class PoolHarness:
    """A pool with a simulated broker and a core that can be paused."""

    def __init__(self, load: Callable[[str], Words] = load_words) -> None:
        self.topics = Topics("tapewire")
        standing = RetainedPresence(
            self.topics.agent, Presence(state="online", run=""), Presence(state="offline", run="")
        )
        self.link = MqttLink(MqttConfig(broker="mqtt://127.0.0.1:1"), WallClock(), "agent", lambda: standing)
        self.own = SentimentConsumer(LiveConfig(), WallClock(), load)
        config = WorkersConfig(enabled=True, answer_within=600_000, inflight=2)
        self.pool = WorkerPool(config, self.link, self.topics, self.own, WallClock(), capacity=4)
        self.offered = 0
        self.asked: list[str] = []
        self.sentiments: list[Sentiment] = []
        self.takes = asyncio.Event()
        self.takes.set()

    async def emit(self, event: Event) -> None:
        await self.takes.wait()
        assert isinstance(event, Sentiment)
        self.sentiments.append(event)

    @property
    def taken(self) -> list[str]:
        return [sentiment.news_id for sentiment in self.sentiments]

    def offer(self) -> None:
        self.pool.offer(News(f"n{self.offered}", 0, 0, f"Bitcoin {self.offered}"))
        self.offered += 1

    def worker(self, name: str, online: bool, model: str) -> None:
        presence = WorkerPresence(worker=name, state="online" if online else "offline", model=model)
        self.link._handlers[self.topics.workers](encode(presence), False)

    async def answer(self, which: int, model: str, sound: bool) -> None:
        """Send the scores of a headline that was published before, possibly long ago."""
        while len(self.link.outbox):
            messages = await self.link.outbox.take(100)
            self.asked += [one.message.id for one in messages if isinstance(one.message, Headline)]
            self.link.outbox.remove(messages)
        if self.asked:
            score = HeadlineScore(self.asked[which % len(self.asked)], 0.2, 0.3, 0.5 if sound else 7.0)
            self.scores(Scores(worker="a", model=model, scores=(score,)))

    def scores(self, message: Scores | dict[str, Any]) -> None:
        self.link._handlers[self.topics.scores](encode(message), False)

    async def step(self, kind: str, *what: Any) -> None:
        match kind:
            case "offer":
                self.offer()
            case "worker":
                self.worker(*what)
            case "answer":
                await self.answer(*what)
            case "core takes":
                self.takes.set() if what[0] else self.takes.clear()
            case _:
                await turn(what[0])

    def ends(self) -> Counter[str]:
        return Counter(self.taken) + Counter(list(self.own._waiting))


async def turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def play(steps: list[tuple[Any, ...]]) -> None:
    harness = PoolHarness()
    await harness.own.use(MODEL)
    running = asyncio.create_task(harness.pool.run(harness.emit))
    for step in steps:
        await harness.step(*step)
        assert not [one for one, times in harness.ends().items() if times > 1]
    harness.takes.set()
    for name in "ab":
        harness.worker(name, True, MODEL)
    for _ in range(4 * harness.offered + 4):  # now every headline is scored, the latest first
        await turn(4)
        for which in range(len(harness.asked) + 4):
            await harness.answer(-1 - which, MODEL, True)
        await turn(4)
    running.cancel()
    assert harness.ends() == Counter(f"n{number}" for number in range(harness.offered))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_each_headline_ends_exactly_once(steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(steps))


def test_a_headline_is_not_scored_twice_if_its_worker_dies_while_the_core_takes_the_result() -> None:
    asyncio.run(
        play(
            [
                ("worker", "a", True, MODEL),
                ("offer",),
                ("turn", 3),
                ("core takes", False),
                ("answer", 0, MODEL, True),
                ("turn", 3),
                ("worker", "a", False, MODEL),
                ("worker", "b", True, MODEL),
                ("turn", 3),
                ("core takes", True),
                ("turn", 5),
                ("answer", 0, MODEL, True),
                ("turn", 3),
            ]
        )
    )


ASSETS = (AssetScore("BTC", 0.1, 0.2, 0.7), AssetScore("ETH", 0.7, 0.2, 0.1))


class NamingModel(Words):
    """The agent's model, which finds assets by names with the hash "ours"."""

    names = "ours"


@asynccontextmanager
async def running(model: Words, *workers: str) -> AsyncIterator[PoolHarness]:
    """Run a pool with these workers online."""
    harness = PoolHarness(lambda _: model)
    await harness.own.use(MODEL)
    task = asyncio.create_task(harness.pool.run(harness.emit))
    await turn(2)
    for name in workers:
        harness.worker(name, True, MODEL)
    try:
        yield harness
    finally:
        task.cancel()


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"assets": ASSETS, "kind": "price", "kind_confidence": 0.8}, True),
        ({"assets": (AssetScore("BTC", 0.5, 0.5, 0.5),)}, False),
        ({"assets": (AssetScore("BTC", -0.1, 0.1, 1.0),)}, False),
        ({"assets": (ASSETS[0], ASSETS[0])}, False),
        ({"assets": (AssetScore("", 0.1, 0.2, 0.7),)}, False),
        ({"assets": (AssetScore("X" * 33, 0.1, 0.2, 0.7),)}, False),
        ({"assets": (AssetScore("B\nTC", 0.1, 0.2, 0.7),)}, False),
        ({"assets": tuple(AssetScore(f"C{n}", 0.1, 0.2, 0.7) for n in range(128))}, True),
        ({"assets": tuple(AssetScore(f"C{n}", 0.1, 0.2, 0.7) for n in range(129))}, False),
        ({"kind": "gossip"}, False),
        ({"kind": "price", "kind_confidence": 1.5}, False),
    ],
)
async def test_scores_with_invalid_assets_or_kinds_are_refused(
    changes: dict[str, Any], accepted: bool
) -> None:
    async with running(NamingModel(MODEL), "a") as harness:
        harness.offer()
        await turn(5)
        score = HeadlineScore("n0", 0.2, 0.3, 0.5, **changes)
        harness.scores(Scores(worker="a", model=MODEL, scores=(score,), names="ours"))
        await turn(5)
        health = harness.pool.health
        assert (health.scored, health.refused) == ((1, 0) if accepted else (0, 1))


async def test_a_sentiment_has_the_assets_and_the_kind_of_its_workers_score() -> None:
    async with running(NamingModel(MODEL), "a") as harness:
        for number in range(2):
            harness.offer()
            await turn(5)
            score = HeadlineScore(f"n{number}", 0.2, 0.3, 0.5, number == 1, ASSETS, "access", 0.75)
            harness.scores(Scores(worker="a", model=MODEL, scores=(score,), names="ours"))
            await turn(5)
    read, abstained = harness.sentiments
    assert [(one.asset, one.bearish, one.neutral, one.bullish, one.embedding) for one in read.assets] == [
        ("BTC", 0.1, 0.2, 0.7, b""),
        ("ETH", 0.7, 0.2, 0.1, b""),
    ]
    assert (read.kind, read.kind_confidence) == ("access", 0.75)
    assert (abstained.assets, abstained.kind, abstained.kind_confidence) == ((), "", 0.0)


async def test_a_worker_with_other_names_of_assets_is_used_and_noted_once() -> None:
    """An earlier version of the worker sends no names."""
    message: dict[str, Any] = {"worker": "a", "model": MODEL}
    async with running(NamingModel(MODEL), "a", "b") as harness:
        pool = harness.pool
        for number, sent in enumerate(({}, {"names": "theirs"}, {"worker": "b", "names": "theirs"})):
            harness.offer()
            await turn(5)
            score = {"id": f"n{number}", "bearish": 0.2, "neutral": 0.3, "bullish": 0.5}
            harness.scores(message | {"scores": [score]} | sent)
            await turn(5)
            assert pool.health.scored == number + 1
            assert pool.health.other_names == pool.health.errors == (2 if number == 2 else 1)
        assert "by other names" in pool.health.last_error
        assert "b (start it with the agent's market.symbols and instruments)" in pool.health.last_error
        harness.scores(message | {"scores": [], "names": "ours"})
        await turn(3)
        assert pool.health.other_names == 1
        harness.worker("b", False, MODEL)
        assert pool.health.other_names == 0


async def test_names_of_assets_do_not_matter_to_a_model_that_reads_none() -> None:
    async with running(Words(MODEL), "a") as harness:
        harness.scores(Scores(worker="a", model=MODEL, scores=()))
        harness.scores(Scores(worker="a", model="another", scores=(), names="theirs"))
        await turn(3)
        assert (harness.pool.health.other_names, harness.pool.health.errors) == (0, 0)


async def test_forged_workers_and_scores_use_bounded_memory() -> None:
    harness = PoolHarness()
    await harness.own.use(MODEL)
    for number in range(1_200):
        harness.worker(f"w{number}", True, "another")
    assert harness.pool.health.others == 1_000
    answer = encode(Scores(worker="w", model="another", scores=()))
    for _ in range(10_050):
        harness.link._handlers[harness.topics.scores](answer, False)
    assert len(harness.pool._received) == 10_000
    assert harness.pool.health.refused == 250
