"""The sentiment model beside the event loop: it scores headlines in micro-batches in a thread."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog

from agent.config.live import LiveConfig
from agent.core.errors import ConfigError
from agent.core.events import AssetSentiment, News, Sentiment
from agent.core.news_kinds import NEWS_KINDS
from agent.data.sentiment import NamedScorer, Score, ScoredText, names_of, provenance_of, score_texts
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.replay.fusion_model import check_scorer
from agent.system.clock import Clock
from models.cards import ReferenceShares
from models.labels import NOT_FINITE, UNKNOWN_KIND, UNSOUND
from models.sentiment.scorer_facts import close_scorer, llm_health_of, side_by_side

if TYPE_CHECKING:
    from models.fusion.serve.predictor import FusionPredictor

_log: Final = structlog.get_logger(__name__)


THIRDS: Final = (1 / 3, 1 / 3, 1 / 3)
"""Probabilities of an abstention."""


def defect_of(scored: ScoredText) -> str:
    """Return why the model's output is invalid, for the text or for one of its assets; empty if it is valid,
    or if the model abstained because of the text.
    """
    score = scored.score
    if score.abstained:
        reason = str(getattr(score, "reason", ""))
        return reason if reason in UNSOUND else ""
    answers: tuple[Score | AssetSentiment, ...] = (score, *scored.assets)
    if not all(_are_probabilities(one.bearish, one.neutral, one.bullish) for one in answers):
        return NOT_FINITE
    embeddings = (scored.embedding, *(one.embedding for one in scored.assets))
    if not all(np.isfinite(np.frombuffer(embedding, "<f2")).all() for embedding in embeddings):
        return NOT_FINITE
    is_known = scored.kind in NEWS_KINDS and 0.0 <= scored.kind_confidence <= 1.0
    return "" if is_known or not scored.kind else UNKNOWN_KIND


def _are_probabilities(*chances: float) -> bool:
    return all(isfinite(one) and one >= 0.0 for one in chances) and abs(sum(chances) - 1.0) <= 0.01


class SentimentHealth(Health):
    """`Health` of the model; messages are the headlines offered."""

    model: str = ""  # fingerprint
    folder: str = ""
    waiting: int = 0
    scored: int = 0
    abstained: int = 0
    dropped: int = 0  # oldest first, because too many waited
    expired: int = 0  # older than `live.score_within`
    unsound: int = 0  # abstentions because the model failed on the text, or its output for it was invalid
    llm: list[dict[str, Any]] = []  # `LlmHealth` of each language model behind the current model


class SentimentConsumer:
    """A `Producer` of `Sentiment`, and the agent's local model.

    `load` opens a model, as `model.path` names it; it may block and raises ModelError. `predictor` is the
    fusion model that reads the sentiments. A headline is removed only after its sentiment was emitted, so
    that a failure loses none.
    """

    name = "sentiment"

    def __init__(
        self,
        config: LiveConfig,
        clock: Clock,
        load: Callable[[str], NamedScorer],
        predictor: FusionPredictor | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._load = load
        self._predictor = predictor
        self.embedded = predictor is not None and predictor.reads_embeddings
        """Whether sentiments carry their headline's embedding."""
        self.on_score: Callable[[str, Score], None] | None = None
        """Called with each headline's id and score before its sentiment is emitted."""
        self._scorer: NamedScorer | None = None
        self._busy: NamedScorer | None = None  # with a batch
        self._waiting: OrderedDict[str, tuple[News, float]] = OrderedDict()
        self._filled = asyncio.Event()
        self._health = SentimentHealth(self.name)

    @property
    def health(self) -> SentimentHealth:
        self._health.waiting = len(self._waiting)
        self._health.llm = llm_health_of(self._scorer)
        return self._health

    async def use(self, folder: str) -> str:
        """Load a model beside the current one and switch to it; return its fingerprint.

        Raises ModelError, or ConfigError if the fusion model was trained with another one; the current model
        then stays. Headlines that are being scored keep the old model's scores.
        """
        scorer = await asyncio.to_thread(self._load, folder)
        try:
            check_scorer(self._predictor, scorer.fingerprint)
        except ConfigError:
            close_scorer(scorer)
            raise
        old, self._scorer = self._scorer, scorer
        if old is not self._busy:
            close_scorer(old)
        self._health.model, self._health.folder, self._health.state = scorer.fingerprint, folder, "live"
        return scorer.fingerprint

    def close(self) -> None:
        """End the requests of a language model, so that its thread doesn't delay the end of the agent."""
        for scorer in (self._scorer, self._busy):
            close_scorer(scorer)

    @property
    def fingerprint(self) -> str:
        return self._health.model

    @property
    def names(self) -> str:
        """Hash of the names by which the model finds assets; empty if it doesn't read single assets."""
        return names_of(self._scorer)

    @property
    def reference(self) -> ReferenceShares | None:
        """The reference for drift of the current model; None if its card has none."""
        return getattr(self._scorer, "reference", None)

    def offer(self, news: News) -> None:
        """Queue a headline to score; if too many wait, drop the oldest."""
        self._health.messages += 1
        self._health.last_message_at = news.available_at
        self._waiting[news.id] = news, asyncio.get_running_loop().time()
        if len(self._waiting) > self._config.queue_news:
            self._waiting.popitem(last=False)
            self._health.dropped += 1
        self._filled.set()

    async def run(self, emit: Emit) -> None:
        """Score until cancelled. A failure of the model is raised; the next run scores its headlines
        again.
        """
        while True:
            batch = await self._collect()
            scorer = self._scorer
            if scorer is None or not batch:
                continue
            batch = batch[: side_by_side(scorer)]  # the others are next
            self._busy = scorer
            try:
                titles = [news.title for news, _ in batch]
                judged = await asyncio.to_thread(score_texts, scorer, titles, embedded=self.embedded)
            except Exception as error:
                self._health.failed(error, self._clock.now())
                raise
            finally:
                self._busy = None
                if scorer is not self._scorer:
                    close_scorer(scorer)
            done, now = asyncio.get_running_loop().time(), self._clock.now()
            for (news, since), scored in zip(batch, judged, strict=True):
                score = scored.score
                reason = defect_of(scored)
                if reason:
                    self._note_unsound(news, scorer.fingerprint, reason, now)
                    scored = ScoredText(score)
                chances = THIRDS if reason else (score.bearish, score.neutral, score.bullish)
                abstained = score.abstained or bool(reason)
                self._health.scored += 1
                self._health.abstained += abstained
                origin = scorer.fingerprint, abstained, (done - since) * 1000
                sentiment = Sentiment(
                    news.id,
                    now,
                    now,
                    *chances,
                    *origin,
                    embedding=scored.embedding,
                    assets=scored.assets,
                    kind=scored.kind,
                    kind_confidence=scored.kind_confidence,
                    provenance=provenance_of(score),
                )
                if self.on_score is not None:
                    self.on_score(news.id, score)
                await deliver(emit, sentiment)
                self._waiting.pop(news.id, None)

    def _note_unsound(self, news: News, model: str, reason: str, now: int) -> None:
        self._health.unsound += 1
        self._health.failed(f"model {model[:12]}: {reason}", now)
        _log.warning("the model abstains", news=news.id, model=model[:12], reason=reason)

    async def _collect(self) -> list[tuple[News, float]]:
        """Wait for a headline, and for a full batch until the first has waited `score_wait`; drop expired
        ones.
        """
        await self._wait_for_more_than(0)
        if self._config.score_wait:
            _, since = next(iter(self._waiting.values()))
            try:
                async with asyncio.timeout_at(since + self._config.score_wait / 1000):
                    await self._wait_for_more_than(self._config.score_batch - 1)
            except TimeoutError:
                pass
        latest = self._clock.now() - self._config.score_within
        for news, _ in list(self._waiting.values()):
            if news.available_at < latest:
                del self._waiting[news.id]
                self._health.expired += 1
                _log.warning("headline too old to be scored", news=news.id)
        return list(self._waiting.values())[: self._config.score_batch]

    async def _wait_for_more_than(self, number: int) -> None:
        while len(self._waiting) <= number:
            self._filled.clear()
            await self._filled.wait()
