"""A slower model revises the first model's answers within a deadline; nothing waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agent.config import parse
from agent.config.llm import LlmConfig
from agent.core.errors import ModelError
from agent.core.events import Command, News, Provenance, Sentiment
from agent.data.given_up import causes_of
from agent.live.revision import RevisingConsumer, RevisionHealth
from models.labels import NOT_FINITE
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore
from tests.support.live import Words, until
from tests.support.producers import ManualClock

T0 = 1_790_000_000_000


def headline(number: int, title: str = "bitcoin") -> News:
    return News(f"n{number}", T0, T0, title)


def first_answer(number: int) -> Sentiment:
    return Sentiment(f"n{number}", T0, T0, 0.05, 0.05, 0.9, "fast")


class Cascade:
    """A running reviser; `answer` is the first model."""

    def __init__(
        self,
        load: Callable[[str], Any],
        *,
        known: Sequence[News] = (),
        within: str = "30s",
        **sections: Any,
    ) -> None:
        raw = {"model": {"revise_with": "slow", "revise_within": within}, **sections}
        self.said: list[Sentiment] = []
        self.commands: list[Command] = []
        self.news = {news.id: news for news in known}
        self.reviser = RevisingConsumer(
            parse(raw, where="test"), ManualClock(T0), load, lambda news_id: self.news.get(news_id)
        )
        self._emit: Any = lambda event: (self.commands if isinstance(event, Command) else self.said).append(
            event
        )
        self._first = self.reviser.first_answers(self._emit)
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Cascade:
        self.task = asyncio.create_task(self.reviser.run(self._emit))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})

    async def answer(self, *numbers: int) -> None:
        for number in numbers:
            waiting = self._first(first_answer(number))
            assert waiting is not None
            await waiting

    async def loaded(self) -> None:
        await until(lambda: self.health.model)

    def again(self) -> asyncio.Task[None]:
        """Restart the reviser, as its supervisor does."""
        self.task = asyncio.create_task(self.reviser.run(self._emit))
        return self.task

    @property
    def health(self) -> RevisionHealth:
        return self.reviser.health

    @property
    def given_up(self) -> dict[str, str]:
        """Cause by headline, as journalled."""
        return {id_: cause for command in self.commands for id_, cause in causes_of(command).items()}

    @property
    def revisions(self) -> list[Sentiment]:
        return [one for one in self.said if one.model != "fast"]


def slow(folder: str) -> Words:
    return Words(folder)


async def test_a_first_answer_is_provisional_and_the_revision_final() -> None:
    async with Cascade(slow, known=[headline(1)]) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
        await until(lambda: cascade.revisions)
    assert [(one.model, one.provisional) for one in cascade.said] == [("fast", True), ("slow", False)]
    revision = cascade.said[1]
    assert (revision.news_id, revision.available_at, revision.bullish) == ("n1", T0, 0.9)
    assert revision.latency_ms >= 0
    health = cascade.health
    assert (health.messages, health.revised, health.waiting, health.state) == (1, 1, 0, "live")


async def test_a_headline_that_cannot_vote_gets_a_final_answer_at_once() -> None:
    async with Cascade(slow) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
    assert cascade.said == [first_answer(1)]
    assert (cascade.health.skipped, cascade.health.messages) == (1, 0)


async def test_answers_are_final_until_the_revising_model_is_loaded() -> None:
    missing = True

    def load(folder: str) -> Words:
        if missing:
            raise ModelError("the server is down")
        return Words(folder)

    async with Cascade(load, known=[headline(1), headline(2)]) as cascade:
        await asyncio.wait({cascade.task})
        with pytest.raises(ModelError, match="the server is down"):
            cascade.task.result()
        await cascade.answer(1)
        assert cascade.said == [first_answer(1)]
        assert (cascade.health.errors, cascade.health.last_error) == (1, "the server is down")
        assert cascade.health.skipped == 0
        missing = False
        cascade.again()
        await cascade.loaded()
        await cascade.answer(2)
        await until(lambda: cascade.revisions)
    assert [one.provisional for one in cascade.said] == [False, True, False]


async def test_everything_the_model_tells_is_part_of_the_revision() -> None:
    told = HeadlineScore(
        0.1,
        0.2,
        0.7,
        assets=(AssetScore("BTC", 0.8, 0.1, 0.1),),
        kind="access",
        kind_confidence=0.6,
        provenance=Provenance("qwen", "f" * 64, 42, ("bullish",), reason="A fund opens."),
    )

    class Telling(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            return [told for _ in texts]

    async with Cascade(Telling, known=[headline(1)]) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
        await until(lambda: cascade.revisions)
    (revision,) = cascade.revisions
    assert (revision.bearish, revision.neutral, revision.bullish) == (0.1, 0.2, 0.7)
    assert [(one.asset, one.bearish) for one in revision.assets] == [("BTC", 0.8)]
    assert (revision.kind, revision.kind_confidence) == ("access", 0.6)
    assert revision.provenance == told.provenance


class Blocked(Words):
    """A model that blocks until it is released."""

    def __init__(self, folder: str = "slow") -> None:
        super().__init__(folder)
        self.opened = threading.Event()
        self.entered = threading.Event()

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        self.entered.set()
        assert self.opened.wait(10)
        return super().score(texts)


async def test_an_answer_after_the_deadline_is_dropped_and_counted() -> None:
    model = Blocked()
    async with Cascade(lambda _: model, known=[headline(n) for n in range(4)], within="50ms") as cascade:
        await cascade.loaded()
        await cascade.answer(0)
        await until(model.entered.is_set)
        await cascade.answer(1, 2)
        await until(lambda: cascade.health.late == 1)
        assert (cascade.health.state, cascade.health.last_error) == ("waiting", "no answer within 50ms")
        await asyncio.sleep(0.06)
        model.opened.set()
        await until(lambda: cascade.health.late == 3)
        await cascade.answer(3)
        await until(lambda: cascade.revisions)
    assert [one.news_id for one in cascade.revisions] == ["n3"]
    assert cascade.health.state == "live"
    assert cascade.given_up == {"n0": "late", "n1": "late", "n2": "late"}


async def test_first_answers_pass_while_the_revising_model_hangs() -> None:
    model = Blocked()
    known = [headline(n) for n in range(100)]
    async with Cascade(lambda _: model, known=known, live={"queue_news": 10}) as cascade:
        await cascade.loaded()
        await cascade.answer(0)
        await until(model.entered.is_set)
        await cascade.answer(*range(1, 100))
        assert [one.news_id for one in cascade.said] == [f"n{n}" for n in range(100)]
        assert (cascade.health.waiting, cascade.health.dropped) == (11, 89)
        model.opened.set()
        await until(lambda: len(cascade.revisions) == 11)
    assert [one.news_id for one in cascade.revisions] == ["n0", *(f"n{n}" for n in range(90, 100))]
    assert cascade.given_up == dict.fromkeys((f"n{n}" for n in range(1, 90)), "dropped")


async def test_a_stop_does_not_wait_for_a_call_that_hangs() -> None:
    model = Blocked()
    async with Cascade(lambda _: model, known=[headline(1)]) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
        await until(model.entered.is_set)
    assert cascade.task.cancelled()
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "revision"] == [True]
    model.opened.set()


async def test_a_failure_loses_revisions_and_no_first_answer() -> None:
    class Fails(Words):
        left = 1

        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            self.left -= 1
            if self.left >= 0:
                raise ConnectionResetError("the server is gone")
            return super().score(texts)

    async with Cascade(Fails, known=[headline(1), headline(2)]) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
        await asyncio.wait({cascade.task})
        with pytest.raises(ConnectionResetError):
            cascade.task.result()
        await cascade.answer(2)
        cascade.again()
        await until(lambda: cascade.revisions)
    assert [(one.news_id, one.model) for one in cascade.said] == [
        ("n1", "fast"),
        ("n2", "fast"),
        ("n2", "slow"),
    ]
    health = cascade.health
    assert (health.failed_headlines, health.errors, health.last_error) == (1, 1, "the server is gone")
    assert health.messages == health.revised + health.failed_headlines == 2
    assert cascade.given_up == {"n1": "failed"}


async def test_headlines_that_wait_behind_a_call_that_hangs_are_given_up_when_their_time_is_over() -> None:
    model = Blocked()
    async with Cascade(lambda _: model, known=[headline(n) for n in range(4)], within="50ms") as cascade:
        await cascade.loaded()
        await cascade.answer(0)
        await until(model.entered.is_set)
        await cascade.answer(1, 2, 3)
        await until(lambda: len(cascade.given_up) == 4)
        assert cascade.health.waiting == 0
        assert cascade.health.state == "waiting", "the call still hangs"
        model.opened.set()
    assert set(cascade.given_up.values()) == {"late"}
    assert cascade.revisions == []


async def test_after_a_restart_only_headlines_whose_time_is_not_over_are_asked_again() -> None:
    """The clock shows T0; the deadline of 30 s counts from the first answer."""
    async with Cascade(slow, known=[headline(1)]) as cascade:
        for number, age in ((1, 40_000), (2, 29_000), (3, 0)):
            cascade.reviser.resume(headline(number), T0 - age)
        await until(lambda: len(cascade.revisions) == 2)
        await until(lambda: cascade.commands)
    assert [one.news_id for one in cascade.revisions] == ["n2", "n3"]
    assert [round(one.latency_ms, -3) for one in cascade.revisions] == [29_000, 0]
    assert cascade.given_up == {"n1": "outlived"}
    health = cascade.health
    assert (health.messages, health.resumed, health.outlived, health.revised) == (3, 3, 1, 2)


async def test_after_a_restart_headlines_do_not_wait_for_a_model_that_cannot_be_loaded() -> None:
    def load(folder: str) -> Words:
        raise ModelError("the server is down")

    async with Cascade(load, within="50ms") as cascade:
        cascade.reviser.resume(headline(1), T0)
        await asyncio.wait({cascade.task})
        assert cascade.health.waiting == 1
        await asyncio.sleep(0.06)
        await asyncio.wait({cascade.again()})
        assert cascade.given_up == {"n1": "late"}
        assert cascade.health.waiting == 0


async def test_the_answer_of_a_fallback_is_no_revision() -> None:
    class Dead(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            left = Provenance("qwen", "f" * 64, 42, (), "the server refused the connection")
            return [HeadlineScore(0.9, 0.05, 0.05, provenance=left) for _ in texts]

    async with Cascade(Dead, known=[headline(1)]) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
        await until(lambda: cascade.commands)
    assert cascade.given_up == {"n1": "unanswered"}
    assert [one.model for one in cascade.said] == ["fast"]
    assert cascade.health.last_error == "qwen: the server refused the connection"


async def test_an_invalid_answer_is_an_abstention() -> None:
    class Broken(Words):
        def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
            return [HeadlineScore(float("nan"), 0.5, 0.5) for _ in texts]

    async with Cascade(Broken, known=[headline(1)]) as cascade:
        await cascade.loaded()
        await cascade.answer(1)
        await until(lambda: cascade.revisions)
    (revision,) = cascade.revisions
    assert (revision.abstained, revision.neutral) == (True, 1 / 3)
    assert (cascade.health.unsound, cascade.health.abstained) == (1, 1)
    assert cascade.health.last_error.endswith(NOT_FINITE)


@pytest.mark.parametrize(
    ("asks", "largest"),
    [(0, 8), (3, 3)],
    ids=["a local model takes a batch", "a language model takes what it asks at a time"],
)
async def test_batches(asks: int, largest: int) -> None:
    class Asking(Blocked):
        spec, prompts, health = "qwen", (), None
        config = LlmConfig(concurrency=3)

    model = Asking() if asks else Blocked()
    known = [headline(n) for n in range(10)]
    async with Cascade(lambda _: model, known=known, live={"score_batch": 8}) as cascade:
        await cascade.loaded()
        await cascade.answer(0)
        await until(model.entered.is_set)
        await cascade.answer(*range(1, 10))
        model.opened.set()
        await until(lambda: len(cascade.revisions) == 10)
    assert max(map(len, model.batches)) == largest
