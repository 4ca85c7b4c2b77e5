"""Distributes headlines to sentiment workers, with the agent's local model as the fallback.

    offered ─> unsent ─> sent ─> scored: a sentiment, once
                 ^          │
                 └ a worker died        too late, or no worker ─> local model

A headline is in one place at a time, and a score counts only while its headline is `sent`. So each headline
gets one sentiment, even if scores are repeated, late or from another model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
import structlog

from agent.config.services import WorkersConfig
from agent.core.events import AssetSentiment, News, Sentiment
from agent.core.news_kinds import NEWS_KINDS
from agent.data.sentiment_columns import MAX_ASSET
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.interfaces.running_agent import LocalModel
from agent.live.services.mqtt.connection import MqttLink
from agent.live.services.mqtt.mqtt_messages import (
    OF_HISTORY,
    AssetScore,
    Headline,
    HeadlineScore,
    ModelInUse,
    Scores,
    Topics,
    WorkerPresence,
)
from agent.system.clock import Clock
from agent.system.untrusted import JSON_DECODE_ERRORS, Throttle

_MOST_WORKERS: Final = 1_000  # names remembered, since any publisher could invent more
_MOST_SCORES: Final = 10_000  # messages with scores that wait to be handled
_MOST_ASSETS: Final = 128  # in a score
_LONGEST_REASON: Final = 64  # characters; of an abstention
_log: Final = structlog.get_logger(__name__)


class WorkersHealth(Health):
    """`Health` of the workers together; messages are the headlines offered.

    It is live if at least one worker has the agent's model.
    """

    workers: int = 0  # with the agent's model
    others: int = 0  # with another one
    other_names: int = 0  # with the agent's model, but with other names of assets; their scores are used
    waiting: int = 0
    scored: int = 0
    abstained: int = 0
    own_model: int = 0  # headlines that went to the local model
    resent: int = 0  # after a worker died
    late: int = 0  # scores of headlines that had a sentiment, or had gone to the local model
    # scores of another model, invalid scores, and messages beyond the limits
    refused: int = 0


class _PendingHeadline(NamedTuple):
    news: News
    since: float  # of the event loop's clock


class WorkerPool:
    """A `Producer` of `Sentiment`, from workers that have the model of `local_model`.

    At most `capacity` headlines wait.
    """

    name = "workers"

    def __init__(
        self,
        config: WorkersConfig,
        link: MqttLink,
        topics: Topics,
        local_model: LocalModel,
        clock: Clock,
        *,
        capacity: int,
    ) -> None:
        self._patience = config.answer_within / 1000
        self._inflight = config.inflight
        self._capacity = capacity
        self._link = link
        self._topics = topics
        self._local_model = local_model
        self._clock = clock
        self._unsent: OrderedDict[str, _PendingHeadline] = OrderedDict()
        self._sent: OrderedDict[str, _PendingHeadline] = OrderedDict()
        self._received: deque[Scores] = deque()
        self._other_models = Throttle()
        self._invalid = Throttle()
        self._workers: dict[str, str] = {}  # name -> fingerprint of its model
        self._other_names: set[str] = set()  # workers that find assets by other names
        self._model = ""
        # `connected_since` of the connection on which the workers were discovered
        self._connection: float | None = None
        self._expect_until: float | None = None  # workers may still appear
        self._woken = asyncio.Event()
        self._health = WorkersHealth(self.name)
        link.subscribe(topics.workers, self._on_presence)
        link.subscribe(topics.scores, self._on_scores)

    @property
    def health(self) -> WorkersHealth:
        health, able = self._health, self._usable_workers()
        health.workers, health.others = able, len(self._workers) - able
        health.other_names = len(self._other_names)
        health.waiting = len(self._unsent) + len(self._sent)
        health.state = "live" if able else "waiting"
        return health

    def offer(self, news: News) -> None:
        self._health.messages += 1
        self._health.last_message_at = news.available_at
        self._unsent[news.id] = _PendingHeadline(news, asyncio.get_running_loop().time())
        if len(self._unsent) > self._capacity:
            self._offer_to_local_model(self._unsent.popitem(last=False)[1])
        self._woken.set()

    async def run(self, emit: Emit) -> None:
        """Work until cancelled. A headline is removed only after its sentiment was emitted."""
        while True:
            self._woken.clear()
            self._check_connection()
            while self._received:
                await self._handle_scores(self._received[0], emit)
                self._received.popleft()
            self._fall_back()
            self._send_headlines()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_due()):
                    await self._woken.wait()

    # -- from the broker ------------------------------------------------------------------------------

    def _on_presence(self, payload: bytes, retained: bool) -> None:
        self._check_connection()
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
                        agent_model=self._model,
                        count=count,
                    )
            elif known != presence.model:
                _log.info("worker online", worker=presence.worker, workers=self._usable_workers())
        elif self._workers.pop(presence.worker, "") == self._model:
            _log.warning(
                "worker gone", worker=presence.worker, workers=self._usable_workers(), sent=len(self._sent)
            )
            self._send_again()
        if presence.state == "offline":
            self._other_names.discard(presence.worker)
        self._woken.set()

    def _on_scores(self, payload: bytes, retained: bool) -> None:
        if len(self._received) >= _MOST_SCORES:
            self._health.refused += 1
            return
        try:
            self._received.append(msgspec.json.decode(payload, type=Scores))
        except JSON_DECODE_ERRORS as error:
            self._health.failed(error, self._clock.now())
        self._woken.set()

    # -- the life of a headline -----------------------------------------------------------------------

    async def _handle_scores(self, message: Scores, emit: Emit) -> None:
        self._check_names(message)
        for score in message.scores:
            if score.id.startswith(OF_HISTORY):
                continue
            offered = self._sent.get(score.id)
            if message.model != self._model or not is_valid(score):
                self._health.refused += 1
                if count := self._invalid.due():
                    _log.warning(
                        "scores rejected",
                        worker=message.worker,
                        model=message.model,
                        agent_model=self._model,
                        news=score.id,
                        count=count,
                    )
            elif offered is None:
                self._health.late += 1
            else:
                await self._emit_sentiment(score, message.model, emit)

    def _check_names(self, message: Scores) -> None:
        """Log once for each worker that finds assets by other names than the agent's model does."""
        if message.model != self._model:
            return
        expected = self._local_model.names
        if message.names == expected:
            self._other_names.discard(message.worker)
            return
        if message.worker in self._other_names or len(self._other_names) >= _MOST_WORKERS:
            return
        self._other_names.add(message.worker)
        what = "a worker finds assets by other names; its scores are used"
        hint = "start it with the agent's market.symbols and instruments"
        _log.warning(
            what,
            worker=message.worker,
            names=message.names[:12] or "none",
            agent_names=expected[:12] or "none",
            hint=hint,
        )
        self._health.failed(f"{what}: {message.worker} ({hint})", self._clock.now())

    async def _emit_sentiment(self, score: HeadlineScore, model: str, emit: Emit) -> None:
        """Emit the sentiment.

        Meanwhile the headline is in no queue, so that the death of a worker doesn't send it again.
        """
        offered = self._sent.pop(score.id)
        now, waited = self._clock.now(), asyncio.get_running_loop().time() - offered.since
        sentiment = Sentiment(
            score.id,
            now,
            now,
            score.bearish,
            score.neutral,
            score.bullish,
            model,
            score.abstained,
            waited * 1000,
            assets=() if score.abstained else tuple(map(_answer, score.assets)),
            kind="" if score.abstained else score.kind,
            kind_confidence=0.0 if score.abstained else score.kind_confidence,
            provenance=None if score.provenance is None else score.provenance.provenance,
        )
        try:
            await deliver(emit, sentiment)
        except BaseException:  # not emitted: its scores are handled again
            self._sent[score.id] = offered
            self._sent.move_to_end(score.id, last=False)
            raise
        self._health.scored += 1
        self._health.abstained += score.abstained

    def _fall_back(self) -> None:
        """Give the local model overdue headlines, and all of them if no worker is expected."""
        now = asyncio.get_running_loop().time()
        unexpected = not self._usable_workers() and now >= (self._expect_until or now)
        for waiting in (self._sent, self._unsent):
            while waiting:
                offered = next(iter(waiting.values()))
                if not unexpected and now < offered.since + self._patience:
                    break
                waiting.popitem(last=False)
                self._offer_to_local_model(offered)

    def _offer_to_local_model(self, offered: _PendingHeadline) -> None:
        self._health.own_model += 1
        self._local_model.offer(offered.news)

    def _send_headlines(self) -> None:
        """Send headlines to the workers, up to their limit."""
        topic = self._topics.headlines(self._model)
        while self._unsent and len(self._sent) < self._inflight * self._usable_workers():
            key, offered = self._unsent.popitem(last=False)
            self._sent[key] = offered
            self._link.outbox.put(topic, Headline(key, offered.news.title))

    def _send_again(self) -> None:
        """Queue all sent headlines again, in order: it is unknown which of them a dead worker had."""
        self._health.resent += len(self._sent)
        while self._sent:
            key, offered = self._sent.popitem()
            self._unsent[key] = offered
            self._unsent.move_to_end(key, last=False)

    def _next_due(self) -> float | None:
        """Return when the next headline is overdue, by the event loop's clock; None if none waits."""
        oldest = [next(iter(waiting.values())).since for waiting in (self._sent, self._unsent) if waiting]
        if not oldest:
            return None
        due = min(oldest) + self._patience
        return due if self._usable_workers() or self._expect_until is None else min(due, self._expect_until)

    # -- which workers are connected ------------------------------------------------------------------

    def _usable_workers(self) -> int:
        return sum(model == self._model for model in self._workers.values())

    def _check_connection(self) -> None:
        """After a reconnection discover the workers anew; after a change of the model drop the old one's
        scores.
        """
        now = asyncio.get_running_loop().time()
        if self._expect_until is None:
            self._expect_until = now + self._patience
        if self._link.connected_since != self._connection:
            self._connection = self._link.connected_since
            self._workers.clear()
            if self._connection is not None:
                self._expect_until = now + self._patience
                self._send_again()
        if (model := self._local_model.fingerprint) != self._model:
            self._model = model
            self._other_names.clear()
            self._send_again()
            self._link.outbox.put(self._topics.model, ModelInUse(model), retain=True, latest=True)


def _answer(score: AssetScore) -> AssetSentiment:
    return AssetSentiment(score.asset, score.bearish, score.neutral, score.bullish)


def is_valid(score: HeadlineScore) -> bool:
    """Return whether the values are probabilities, the assets distinct tickers, the kind a known one, and the
    provenance and the reason of a tolerable size.
    """
    tickers = {one.asset for one in score.assets}
    return (
        len(score.assets) <= _MOST_ASSETS
        and (score.provenance is None or score.provenance.is_bounded)
        and len(tickers) == len(score.assets)
        and all(0 < len(ticker) <= MAX_ASSET and ticker.isprintable() for ticker in tickers)
        and all(_has_probabilities(*one) for one in _numbers(score))
        and (not score.kind or score.kind in NEWS_KINDS)
        and 0 <= score.kind_confidence <= 1
        and len(score.reason) <= _LONGEST_REASON
        and (score.unknown is None or 0 <= score.unknown <= 1)
    )


def _numbers(score: HeadlineScore) -> Iterator[tuple[float, float, float]]:
    """Yield the probabilities of the headline, then those of its assets."""
    yield score.bearish, score.neutral, score.bullish
    for one in score.assets:
        yield one.bearish, one.neutral, one.bullish


def _has_probabilities(*three: float) -> bool:
    return all(0 <= one <= 1 for one in three) and 0.99 < sum(three) < 1.01
