"""Headlines are scored outside the event loop in micro-batches; a failing model loses none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import astuple, replace

from agent.config.live import LiveConfig
from agent.core.errors import ModelError
from agent.core.events import News, Sentiment
from agent.live.scoring import SentimentConsumer
from models.labels import NOT_FINITE, UNKNOWN_KIND
from models.sentiment.scorer_facts import side_by_side
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore
from models.sentiment.serve.scorer import Scorer
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


class PairWise(Words):
    """Works on two texts at the same time."""

    at_once = 2


async def test_a_burst_is_scored_in_as_many_as_the_model_works_on_and_its_first_are_not_held_back() -> None:
    pairs = PairWise()
    async with Listening(lambda _: pairs, score_wait=3_600_000, score_batch=5) as listening:
        for number in range(5):
            listening.consumer.offer(headline(number))
        await until(lambda: len(listening.said) >= 2)
        assert len(pairs.batches[0]) == 2
    wrapped = Words()
    wrapped.scorer = PairWise()  # type: ignore[attr-defined]
    for scorer, most in ((pairs, 2), (wrapped, 2), (Words(), None)):
        assert side_by_side(scorer) == most


async def test_by_default_a_headline_does_not_wait_for_others() -> None:
    assert LiveConfig().score_wait == 0
    pairs = PairWise()
    async with Listening(lambda _: pairs, score_wait=0) as listening:
        for number in range(5):
            listening.consumer.offer(headline(number))
        await until(lambda: len(listening.said) == 5)
    assert [len(batch) for batch in pairs.batches] == [2, 2, 1]
    assert [s.news_id for s in listening.said] == [f"n{n}" for n in range(5)]


async def test_what_a_full_batch_left_over_has_waited_already() -> None:
    pairs = PairWise()
    async with Listening(lambda _: pairs, score_wait=300, score_batch=3) as listening:
        for number in range(3):
            listening.consumer.offer(headline(number))
        began = asyncio.get_running_loop().time()
        await until(lambda: len(listening.said) == 3)  # the third alone, once its own time is up
        listening.consumer.offer(headline(3))
        await until(lambda: len(listening.said) == 4)
        assert asyncio.get_running_loop().time() - began >= 0.5
    assert [len(batch) for batch in pairs.batches] == [2, 1, 1]


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


async def test_sentiments_have_the_assets_and_the_kind_that_the_model_reads(
    tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    """The model reads +3 for bitcoin, -3 for ether, and 0 for the headline as a whole (`write_reader`)."""
    reader = Scorer.load(write_reader(tmp_path / "reader"))
    async with Listening(lambda _: reader) as listening:
        listening.consumer.offer(headline(1, title="Bitcoin soars ether crashes"))
        await until(lambda: listening.said)
        listening.consumer.embedded = True
        listening.consumer.offer(headline(2, title="Bitcoin soars ether crashes"))
        await until(lambda: len(listening.said) == 2)
        assert listening.consumer.names == reader.names != ""
    (expected,) = reader.score(["Bitcoin soars ether crashes"])
    for said in listening.said:
        assert [(one.asset, one.bearish, one.neutral, one.bullish) for one in said.assets] == [
            astuple(one) for one in expected.assets
        ]
        assert (said.kind, said.kind_confidence) == ("price", expected.kind_confidence)
    bitcoin, ether = listening.said[0].assets
    assert (bitcoin.asset, ether.asset) == ("BTC", "ETH")
    assert bitcoin.bullish == pytest.approx(ether.bearish)
    assert bitcoin.bullish > 0.9
    assert [one.embedding for one in listening.said[0].assets] == [b"", b""]
    assert [np.frombuffer(one.embedding, "<f2").tolist() for one in listening.said[1].assets] == [
        [3.0, 1.0],
        [-3.0, 1.0],
    ]


async def test_a_model_without_assets_has_no_names() -> None:
    async with Listening(lambda _: Words()) as listening:
        assert listening.consumer.names == ""


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"assets": (AssetScore("BTC", NAN, NAN, NAN),)}, NOT_FINITE),
        ({"assets": (AssetScore("BTC", 0.1, 0.2, 0.7), AssetScore("ETH", 0.5, 0.5, 0.5))}, NOT_FINITE),
        ({"assets": (AssetScore("BTC", -0.5, 0.5, 1.0),)}, NOT_FINITE),
        ({"kind": "gossip", "kind_confidence": 0.5}, UNKNOWN_KIND),
        ({"kind": "price", "kind_confidence": NAN}, UNKNOWN_KIND),
        ({"kind": "price", "kind_confidence": 0.5}, ""),
    ],
)
async def test_an_invalid_answer_for_an_asset_makes_the_headline_unsound(
    changes: dict[str, Any], reason: str
) -> None:
    """The headline's own probabilities are valid."""

    class Odd(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            return [replace(HeadlineScore(0.1, 0.2, 0.7), **changes) for _ in texts]

    async with Listening(lambda _: Odd()) as listening:
        listening.consumer.offer(headline(1))
        await until(lambda: listening.said)
        health = listening.consumer.health
    (said,) = listening.said
    assert (health.unsound, health.abstained) == ((1, 1) if reason else (0, 0))
    assert said.abstained is bool(reason)
    if reason:
        assert (said.assets, said.kind, said.kind_confidence) == ((), "", 0.0)
        assert reason in health.last_error


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
