"""Each headline gets one sentiment or goes to the agent's own model once, however workers behave."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.live import LiveConfig
from agent.config.services import MqttConfig, WorkersConfig
from agent.core.events import Event, News, Sentiment
from agent.live.scoring import SentimentConsumer
from agent.live.services.mqtt.connection import MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import (
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
from tests.support.live import load_words

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

    def __init__(self) -> None:
        self.topics = Topics("tapewire")
        standing = RetainedPresence(
            self.topics.agent, Presence(state="online", run=""), Presence(state="offline", run="")
        )
        self.link = MqttLink(MqttConfig(broker="mqtt://127.0.0.1:1"), WallClock(), "agent", lambda: standing)
        self.own = SentimentConsumer(LiveConfig(), WallClock(), load_words)
        config = WorkersConfig(enabled=True, answer_within=600_000, inflight=2)
        self.pool = WorkerPool(config, self.link, self.topics, self.own, WallClock(), capacity=4)
        self.offered = 0
        self.asked: list[str] = []
        self.taken: list[str] = []
        self.takes = asyncio.Event()
        self.takes.set()

    async def emit(self, event: Event) -> None:
        await self.takes.wait()
        assert isinstance(event, Sentiment)
        self.taken.append(event.news_id)

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
            self.link._handlers[self.topics.scores](
                encode(Scores(worker="a", model=model, scores=(score,))), False
            )

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
