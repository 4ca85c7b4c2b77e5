"""A sentiment worker: takes headlines off a shared subscription, scores them in batches, and publishes the
scores.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Final, Never

import msgspec
import structlog

from agent.config.services import MqttConfig
from agent.core.errors import first_error
from agent.data.provenance import ProvenanceObject
from agent.data.sentiment import NamedScorer, ScoredText, names_of, provenance_of, score_texts
from agent.live.services.mqtt.connection import LinkHealth, MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import (
    AssetScore,
    Headline,
    HeadlineScore,
    ModelInUse,
    Scores,
    Topics,
    WorkerPresence,
)
from agent.system.clock import Clock, WallClock
from agent.system.untrusted import JSON_DECODE_ERRORS
from models.sentiment.scorer_facts import most_at_once

GROUP: Final = "tapewire"
"""Name of the shared subscription, in which each headline goes to one worker."""

_REMEMBERED: Final = 4_096  # scores remembered, for headlines that are sent again
_WAITING: Final = 10_000  # headlines; beyond it the oldest is left to the agent's model
_log: Final = structlog.get_logger(__name__)


class SentimentWorker:
    """Scores for the agents under `config.prefix` that use `scorer`'s model. `name` must be unique on the
    broker.
    """

    def __init__(
        self,
        config: MqttConfig,
        scorer: NamedScorer,
        name: str,
        *,
        batch: int = 32,
        report_every: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self.scored = 0
        self.repeated = 0
        """Headlines that were sent again and answered from memory."""
        self._scorer = scorer
        self._name = name
        self._most = min(batch, most_at_once(scorer) or batch)
        self._report_every = report_every
        self._topics = Topics(config.prefix)
        self._waiting: OrderedDict[str, str] = OrderedDict()  # id -> title
        self._scores: OrderedDict[str, HeadlineScore] = OrderedDict()
        self._filled = asyncio.Event()
        self._link = MqttLink(config, clock or WallClock(), f"{config.prefix}-worker-{name}", self._presence)
        self._link.subscribe(
            f"$share/{GROUP}/{self._topics.headlines(scorer.fingerprint)}", self._on_headline
        )
        self._link.subscribe(self._topics.model, self._on_model_in_use)

    @property
    def health(self) -> LinkHealth:
        """Health of the connection."""
        return self._link.health

    async def run(self) -> None:
        """Work until cancelled; the agent sends unanswered headlines to other workers.

        Raises what the model raises.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(self._work()), tasks.create_task(self._report())]
                try:
                    await self._link.run(_discard)
                finally:
                    for task in working:
                        task.cancel()
        except BaseExceptionGroup as group:
            raise first_error(group) from group

    def _presence(self) -> RetainedPresence:
        def presence(state: str) -> WorkerPresence:
            online = state == "online"
            return WorkerPresence(
                worker=self._name, state="online" if online else "offline", model=self._scorer.fingerprint
            )

        return RetainedPresence(self._topics.worker(self._name), presence("online"), presence("offline"))

    def _on_headline(self, payload: bytes, retained: bool) -> None:
        try:
            headline = msgspec.json.decode(payload, type=Headline)
        except JSON_DECODE_ERRORS as error:
            _log.warning("no headline", reason=str(error))
            return
        self._waiting[headline.id] = headline.title
        if len(self._waiting) > _WAITING:
            self._waiting.popitem(last=False)
        self._filled.set()

    def _on_model_in_use(self, payload: bytes, retained: bool) -> None:
        try:
            model = msgspec.json.decode(payload, type=ModelInUse).model
        except JSON_DECODE_ERRORS:
            return
        if model == self._scorer.fingerprint:
            _log.info("the agent uses this model")
        else:
            _log.warning(
                "the agent uses another model and sends no headlines to this worker",
                agent=model,
                here=self._scorer.fingerprint,
            )

    async def _work(self) -> Never:
        while True:
            while not self._waiting:
                self._filled.clear()
                await self._filled.wait()
            batch = dict(islice(self._waiting.items(), self._most))
            for key in batch:
                del self._waiting[key]
            await self._score(batch)

    async def _score(self, batch: dict[str, str]) -> None:
        fresh = {key: title for key, title in batch.items() if key not in self._scores}
        if fresh:
            judged = await asyncio.to_thread(score_texts, self._scorer, list(fresh.values()), embedded=False)
            for key, scored in zip(fresh, judged, strict=True):
                self._scores[key] = _message(key, scored)
        self.scored += len(fresh)
        self.repeated += len(batch) - len(fresh)
        scores: Sequence[HeadlineScore] = [self._scores[key] for key in batch]
        while len(self._scores) > _REMEMBERED:
            self._scores.popitem(last=False)
        model, names = self._scorer.fingerprint, names_of(self._scorer)
        answer = Scores(worker=self._name, model=model, scores=tuple(scores), names=names)
        self._link.outbox.put(self._topics.scores, answer)

    async def _report(self) -> Never:
        loop = asyncio.get_running_loop()
        scored, since = 0, loop.time()
        while True:
            await asyncio.sleep(self._report_every)
            now, done = loop.time(), self.scored
            if done > scored:
                _log.info(
                    "scored",
                    headlines=done - scored,
                    per_s=round((done - scored) / (now - since), 1),
                    total=done,
                    waiting=len(self._waiting),
                )
            scored, since = done, now


def _message(key: str, scored: ScoredText) -> HeadlineScore:
    score = scored.score
    return HeadlineScore(
        key,
        score.bearish,
        score.neutral,
        score.bullish,
        score.abstained,
        tuple(AssetScore(one.asset, one.bearish, one.neutral, one.bullish) for one in scored.assets),
        scored.kind,
        scored.kind_confidence,
        None if (provenance := provenance_of(score)) is None else ProvenanceObject.of(provenance),
        getattr(score, "reason", ""),
        getattr(score, "unknown", None),
    )


def _discard(_: object) -> None:
    """Do nothing: a worker emits no events."""
