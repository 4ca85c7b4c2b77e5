"""The agent's side of the sentiment workers: headlines out, sentiments in, and its own model for what nobody answers in time.

    offered ─> unsent ─> asked ─> answered: a sentiment, once
                 ^          │
                 └ a worker died        too late, or nobody is there ─> the own model

A headline is in one place at a time, and its answer counts only while it is `asked`, so it gets one sentiment whatever is sent twice,
late or by somebody with another model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
import structlog

from agent.config.services import WorkersConfig
from agent.core.events import News, Sentiment
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.interfaces.running_agent import LocalModel
from agent.live.services.mqtt.connection import MqttLink
from agent.live.services.mqtt.mqtt_messages import Headline, ModelInUse, Score, Scores, Topics, WorkerPresence
from agent.system.clock import Clock
from agent.system.untrusted import JSON_DECODE_ERRORS, Throttle

_MOST_WORKERS: Final = 1_000  # names that are remembered: whoever may publish could invent more
_MOST_ANSWERS: Final = 10_000  # that wait to be taken in
_log: Final = structlog.get_logger(__name__)


class WorkersHealth(Health):
    """`Health` of the workers together: live where at least one has the agent's model; messages are the headlines offered."""

    workers: int = 0  # with the agent's model
    others: int = 0  # with another one
    waiting: int = 0
    scored: int = 0
    abstained: int = 0
    own_model: int = 0  # headlines that went to it
    resent: int = 0  # after a worker died
    late: int = 0  # answers to what had its sentiment, or had gone to the own model
    # answers by another model or that are no probabilities, and what comes beyond all bounds
    refused: int = 0


class _Offered(NamedTuple):
    news: News
    since: float  # of the event loop's clock


class WorkerPool:
    """A `Producer` of `Sentiment` in front of `own`, whose model says which workers may answer. `capacity` headlines wait at most."""

    name = "workers"

    def __init__(
        self,
        config: WorkersConfig,
        link: MqttLink,
        topics: Topics,
        own: LocalModel,
        clock: Clock,
        *,
        capacity: int,
    ) -> None:
        self._patience = config.answer_within / 1000
        self._inflight = config.inflight
        self._capacity = capacity
        self._link = link
        self._topics = topics
        self._own = own
        self._clock = clock
        self._unsent: OrderedDict[str, _Offered] = OrderedDict()
        self._asked: OrderedDict[str, _Offered] = OrderedDict()
        self._answers: deque[Scores] = deque()
        self._other_models = Throttle()
        self._unsound = Throttle()
        self._workers: dict[str, str] = {}  # name -> fingerprint of its model
        self._model = ""
        self._connection: float | None = None  # `connected_since` of the one that our workers are known from
        self._hope_until: float | None = None  # workers may still show up
        self._woken = asyncio.Event()
        self._health = WorkersHealth(self.name)
        link.listen(topics.workers, self._hear_presence)
        link.listen(topics.scores, self._hear_scores)

    @property
    def health(self) -> WorkersHealth:
        """A snapshot."""
        health, able = self._health, self._able()
        health.workers, health.others = able, len(self._workers) - able
        health.waiting = len(self._unsent) + len(self._asked)
        health.state = "live" if able else "waiting"
        return health

    def offer(self, news: News) -> None:
        """A headline to score."""
        self._health.messages += 1
        self._health.last_message_at = news.available_at
        self._unsent[news.id] = _Offered(news, asyncio.get_running_loop().time())
        if len(self._unsent) > self._capacity:
            self._give_back(self._unsent.popitem(last=False)[1])
        self._woken.set()

    async def run(self, emit: Emit) -> None:
        """Until cancelled. A headline is forgotten only once its sentiment was taken in."""
        while True:
            self._woken.clear()
            self._look()
            while self._answers:
                await self._take(self._answers[0], emit)
                self._answers.popleft()
            self._hand_back()
            self._hand_out()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_due()):
                    await self._woken.wait()

    # -- from the broker ---------------------------------------------------------------------------------------------

    def _hear_presence(self, payload: bytes, retained: bool) -> None:
        self._look()
        try:
            presence = msgspec.json.decode(payload, type=WorkerPresence)
        except JSON_DECODE_ERRORS as error:
            self._health.failed(error, self._clock.now())
            return
        if presence.state == "online":
            if presence.worker not in self._workers and len(self._workers) >= _MOST_WORKERS:
                self._health.refused += 1
                return
            known = self._workers.get(presence.worker)
            self._workers[presence.worker] = presence.model
            if presence.model != self._model:
                if count := self._other_models.due():
                    _log.warning(
                        "a worker with another model is ignored",
                        worker=presence.worker,
                        model=presence.model,
                        ours=self._model,
                        count=count,
                    )
            elif known != presence.model:
                _log.info("worker online", worker=presence.worker, workers=self._able())
        elif self._workers.pop(presence.worker, "") == self._model:
            _log.warning("worker gone", worker=presence.worker, workers=self._able(), asked=len(self._asked))
            self._ask_again()
        self._woken.set()

    def _hear_scores(self, payload: bytes, retained: bool) -> None:
        if len(self._answers) >= _MOST_ANSWERS:
            self._health.refused += 1
            return
        try:
            self._answers.append(msgspec.json.decode(payload, type=Scores))
        except JSON_DECODE_ERRORS as error:
            self._health.failed(error, self._clock.now())
        self._woken.set()

    # -- the life of a headline --------------------------------------------------------------------------------------

    async def _take(self, answer: Scores, emit: Emit) -> None:
        for score in answer.scores:
            offered = self._asked.get(score.id)
            if answer.model != self._model or not _sound(score):
                self._health.refused += 1
                if count := self._unsound.due():
                    _log.warning(
                        "answer refused",
                        worker=answer.worker,
                        model=answer.model,
                        ours=self._model,
                        news=score.id,
                        count=count,
                    )
            elif offered is None:
                self._health.late += 1
            else:
                await self._land(score, answer.model, emit)

    async def _land(self, score: Score, model: str, emit: Emit) -> None:
        """While the core takes it in, the headline is nowhere: a worker that dies meanwhile must not have it asked for again."""
        offered = self._asked.pop(score.id)
        now, waited = self._clock.now(), asyncio.get_running_loop().time() - offered.since
        sentiment = Sentiment(
            score.id, now, now, score.bearish, score.neutral, score.bullish, model, score.abstained, waited * 1000
        )  # fmt: skip
        try:
            await deliver(emit, sentiment)
        except BaseException:  # not taken in: its answer still waits
            self._asked[score.id] = offered
            self._asked.move_to_end(score.id, last=False)
            raise
        self._health.scored += 1
        self._health.abstained += score.abstained

    def _hand_back(self) -> None:
        """To the own model: what has waited too long, and everything where no worker is to be expected."""
        now = asyncio.get_running_loop().time()
        hopeless = not self._able() and now >= (self._hope_until or now)
        for waiting in (self._asked, self._unsent):
            while waiting:
                offered = next(iter(waiting.values()))
                if not hopeless and now < offered.since + self._patience:
                    break
                waiting.popitem(last=False)
                self._give_back(offered)

    def _give_back(self, offered: _Offered) -> None:
        self._health.own_model += 1
        self._own.offer(offered.news)

    def _hand_out(self) -> None:
        """To the workers, as many as they may have at once."""
        topic = self._topics.headlines(self._model)
        while self._unsent and len(self._asked) < self._inflight * self._able():
            key, offered = self._unsent.popitem(last=False)
            self._asked[key] = offered
            self._link.outbox.put(topic, Headline(key, offered.news.title))

    def _ask_again(self) -> None:
        """Nobody knows which headlines a dead worker had: all that were asked for are asked for again, oldest first."""
        self._health.resent += len(self._asked)
        while self._asked:
            key, offered = self._asked.popitem()
            self._unsent[key] = offered
            self._unsent.move_to_end(key, last=False)

    def _next_due(self) -> float | None:
        """When the next headline has waited long enough, by the event loop's clock; None where none waits."""
        oldest = [next(iter(waiting.values())).since for waiting in (self._asked, self._unsent) if waiting]
        if not oldest:
            return None
        due = min(oldest) + self._patience
        return due if self._able() or self._hope_until is None else min(due, self._hope_until)

    # -- who is there ------------------------------------------------------------------------------------------------

    def _able(self) -> int:
        return sum(model == self._model for model in self._workers.values())

    def _look(self) -> None:
        """Another connection: who is there has to be heard anew. Another model: the old one's answers no longer count."""
        now = asyncio.get_running_loop().time()
        if self._hope_until is None:
            self._hope_until = now + self._patience
        if self._link.connected_since != self._connection:
            self._connection = self._link.connected_since
            self._workers.clear()
            if self._connection is not None:
                self._hope_until = now + self._patience
                self._ask_again()
        if (model := self._own.fingerprint) != self._model:
            self._model = model
            self._ask_again()
            self._link.outbox.put(self._topics.model, ModelInUse(model), retain=True, latest=True)


def _sound(score: Score) -> bool:
    """Whether these are probabilities."""
    three = (score.bearish, score.neutral, score.bullish)
    return all(0 <= one <= 1 for one in three) and 0.99 < sum(three) < 1.01
