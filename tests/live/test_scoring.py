"""Headlines are scored outside the event loop in micro-batches; a failing model loses none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from agent.config.live import LiveConfig
from agent.core.errors import ModelError
from agent.core.events import News, Sentiment
from agent.live.scoring import SentimentConsumer
from models.sentiment.serve.scorer import HeadlineScore
from tests.support.live import Words, until

T0 = 1_790_000_000_000


class Clock:
    time = T0

    def now(self) -> int:
        return self.time


def headline(number: int, at: int = T0, title: str = "bitcoin") -> News:
    return News(f"n{number}", at, at, title)


class Listening:
    """A running sentiment consumer and the events that it emits."""

    def __init__(self, load: Any, **options: Any) -> None:
        self.said: list[Sentiment] = []
        self.clock = Clock()
        self.consumer = SentimentConsumer(LiveConfig(**({"score_wait": 1} | options)), self.clock, load)
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Listening:
        await self.consumer.use("first")
        self.task = asyncio.create_task(self.consumer.run(self.said.append))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.mark.parametrize(
    ("waiting", "batches"),
    [(1, [1]), (3, [3]), (4, [4]), (9, [4, 4, 1])],
    ids=[
        "one goes alone once its time is up",
        "what waits goes together",
        "a full batch",
        "more than a batch",
    ],
)
async def test_headlines_are_scored_in_micro_batches(waiting: int, batches: list[int]) -> None:
    words = Words()
    async with Listening(lambda _: words, score_batch=4) as listening:
        for number in range(waiting):
            listening.consumer.offer(headline(number))
        await until(lambda: len(listening.said) == waiting)
    assert [len(batch) for batch in words.batches] == batches
    assert [s.news_id for s in listening.said] == [f"n{n}" for n in range(waiting)]
    assert all(s.latency_ms > 0 and s.model == "words" and s.available_at == T0 for s in listening.said)


async def test_a_full_batch_is_scored_at_once() -> None:
    async with Listening(lambda _: Words(), score_batch=2, score_wait=3_600_000) as listening:
        listening.consumer.offer(headline(1))
        listening.consumer.offer(headline(2))
        await until(lambda: len(listening.said) == 2)


class BlockedModel(Words):
    """A model that blocks until it is released."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.opened = threading.Event()
        self.entered = threading.Event()

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        self.entered.set()
        assert self.opened.wait(10)
        return super().score(texts)


async def test_scoring_does_not_block_the_event_loop() -> None:
    gate = BlockedModel()
    async with Listening(lambda _: gate) as listening:
        listening.consumer.offer(headline(1))
        await until(gate.entered.is_set)
        for _ in range(100):
            await asyncio.sleep(0)  # klines would be handled here
        assert listening.said == []
        gate.opened.set()
        await until(lambda: listening.said)


async def test_a_failing_model_loses_no_headline() -> None:
    class Fails(Words):
        left = 1

        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            if self.left:
                self.left -= 1
                raise RuntimeError("out of memory")
            return super().score(texts)

    words = Fails()
    async with Listening(lambda _: words) as listening:
        listening.consumer.offer(headline(1))
        await until(listening.task.done)
        assert "out of memory" in listening.consumer.health.last_error
        listening.task = asyncio.create_task(
            listening.consumer.run(listening.said.append)  # type: ignore[arg-type]
        )
        await until(lambda: listening.said)
    assert listening.consumer.health.scored == 1


async def test_a_batch_in_progress_keeps_its_model_after_a_swap() -> None:
    models = {"first": BlockedModel(), "second": Words("second")}
    async with Listening(models.__getitem__) as listening:
        listening.consumer.offer(headline(1))
        await until(models["first"].entered.is_set)  # type: ignore[attr-defined]
        assert await listening.consumer.use("second") == "second"
        models["first"].opened.set()  # type: ignore[attr-defined]
        await until(lambda: listening.said)
        listening.consumer.offer(headline(2))
        await until(lambda: len(listening.said) == 2)
    assert [s.model for s in listening.said] == ["slow", "second"]


async def test_a_model_that_cannot_be_loaded_leaves_the_old_one() -> None:
    def load(folder: str) -> Words:
        if folder != "first":
            raise ModelError(f"{folder} is no model")
        return Words("first")

    async with Listening(load) as listening:
        with pytest.raises(ModelError, match="second is no model"):
            await listening.consumer.use("second")
        listening.consumer.offer(headline(1))
        await until(lambda: listening.said)
    assert [s.model for s in listening.said] == ["first"]


async def test_excess_headlines_drop_the_oldest_and_expired_ones_are_not_scored() -> None:
    async with Listening(lambda _: Words(), queue_news=3, score_within=60_000) as listening:
        listening.clock.time = T0 + 60_001
        for number in range(5):
            listening.consumer.offer(headline(number, at=T0 + 1_000 * number))
        listening.consumer.offer(headline(9, at=T0))
        await until(lambda: len(listening.said) == 2)
    health = listening.consumer.health
    assert [s.news_id for s in listening.said] == ["n3", "n4"]
    assert (health.dropped, health.expired, health.scored, health.waiting) == (3, 1, 2, 0)
