"""The slower model of a cascade: it revises the scores that the first model gave at once.

    headline ─> first model ─> provisional sentiment ─> core
                      └─> revising model, within `model.revise_within` ─> final sentiment ─> core

The first model never waits for the second: its sentiments pass through before they are offered here, the
queue is bounded, and the second model runs in a thread of its own that nothing joins. What is given up is
journalled, with its cause (`agent.data.given_up`). Headlines that waited when an earlier life of the agent
ended are offered again (`resume`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.core.durations import format_duration
from agent.core.events import Event, News, Sentiment
from agent.data.given_up import given_up
from agent.data.sentiment import NamedScorer, ScoredText, provenance_of, score_texts
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.scoring import THIRDS, defect_of
from agent.system.clock import Clock
from agent.system.daemon_threads import DaemonThreads
from models.sentiment.scorer_facts import close_scorer, llm_health_of, most_at_once

_T = TypeVar("_T")
_LEAST_WAIT: Final = 0.05  # seconds
_log: Final = structlog.get_logger(__name__)


class RevisionHealth(Health):
    """`Health` of the revising model; messages are the headlines offered.

    Each of them is waiting, or counts as one of revised, dropped, late, unanswered, failed and outlived.
    """

    model: str = ""  # fingerprint; empty until the model is loaded
    folder: str = ""
    waiting: int = 0
    revised: int = 0  # revisions emitted
    abstained: int = 0  # of these
    unsound: int = 0  # of the abstentions: the model's output was invalid
    skipped: int = 0  # headlines that can't vote, which are not offered
    dropped: int = 0  # oldest first, because too many waited
    late: int = 0  # no score within `model.revise_within`
    unanswered: int = 0  # a language model didn't answer, and its fallback's answer revises nothing
    failed_headlines: int = 0  # the model raised an error
    resumed: int = 0  # of the headlines offered: they waited when an earlier life of the agent ended
    outlived: int = 0  # of these: `model.revise_within` had passed when the agent started again
    llm: list[dict[str, Any]] = []  # `LlmHealth` of each language model behind the model


class _Offered(NamedTuple):
    news: News
    since: float  # of the event loop's clock: when the first score was available


class RevisingConsumer:
    """A `Producer` of the sentiments that revise those of the first model.

    `load` opens a model; it may block and raises ModelError. It is called when the producer starts, so an
    agent whose revising model can't be loaded runs with the first model's scores, which are then final.
    `find` returns a headline that awaits its first score, None if it can't vote.
    """

    name = "revision"

    def __init__(
        self,
        config: Config,
        clock: Clock,
        load: Callable[[str], NamedScorer],
        find: Callable[[str], News | None],
    ) -> None:
        path = config.model.revise_with
        self._path = path
        self._within = config.model.revise_within / 1000
        self._capacity = config.live.queue_news
        self._batch = config.live.score_batch
        self._clock = clock
        self._load = load
        self._find = find
        self._threads = DaemonThreads("revision")
        self._call: asyncio.Future[Any] | None = None
        self._scorer: NamedScorer | None = None
        self._waiting: OrderedDict[str, _Offered] = OrderedDict()
        self._in_work = 0  # headlines that the model has
        self._given_up: dict[str, str] = {}  # headlines to journal, with the cause
        self._filled = asyncio.Event()
        self._health = RevisionHealth(self.name, folder=path)

    @property
    def health(self) -> RevisionHealth:
        self._health.waiting = len(self._waiting) + self._in_work
        self._health.llm = llm_health_of(self._scorer)
        return self._health

    def close(self) -> None:
        """End the requests of a language model, so that its thread doesn't delay the end of the agent."""
        close_scorer(self._scorer)

    def first_answers(self, emit: Emit) -> Emit:
        """Return what the first model emits to: its sentiments become provisional, and their headlines are
        offered once they were emitted. Until the revising model is loaded, and for headlines that can't vote,
        they are final.
        """

        async def forward(event: Event) -> None:
            if self._scorer is None or not isinstance(event, Sentiment):
                await deliver(emit, event)
                return
            news = self._find(event.news_id)
            self._health.skipped += news is None
            await deliver(emit, event if news is None else replace(event, provisional=True))
            if news is not None:
                self.offer(news)

        return forward

    def offer(self, news: News, *, age: float = 0.0) -> None:
        """Queue a headline whose first score was available `age` seconds ago; if too many wait, drop the
        oldest.
        """
        self._health.messages += 1
        self._health.last_message_at = self._clock.now()
        self._waiting[news.id] = _Offered(news, asyncio.get_running_loop().time() - age)
        if len(self._waiting) > self._capacity:
            dropped, _ = self._waiting.popitem(last=False)
            self._health.dropped += 1
            self._given_up[dropped] = "dropped"
        self._filled.set()

    def resume(self, news: News, answered_at: int) -> None:
        """Offer a headline that waited for its revision when an earlier life of the agent ended.

        `answered_at` is when its first score was available (UTC ms). The deadline counts from then, so a
        revision that would come too late is given up.
        """
        age = max(0, self._clock.now() - answered_at) / 1000
        self._health.resumed += 1
        if age > self._within:
            self._health.messages += 1
            self._health.outlived += 1
            self._given_up[news.id] = "outlived"
            self._filled.set()
        else:
            self.offer(news, age=age)

    async def run(self, emit: Emit) -> None:
        """Revise until cancelled. A failure of the model is raised; its headlines keep their first
        answers.
        """
        self._expire()
        await self._journal_given_up(emit)
        if self._call is not None:
            await self._wait_for(self._call, emit)  # of an earlier run
        if self._scorer is None:
            self._health.state = "connecting"
            loading = self._in_thread(partial(self._load, self._path))
            await self._wait_for(loading, emit)
            self._scorer = self._result(loading)
            self._batch = min(self._batch, most_at_once(self._scorer) or self._batch)
            self._health.model = self._scorer.fingerprint
            _log.info("revising model loaded", model=self._health.model, folder=self._path)
        self._health.state = "live"
        while True:
            batch = await self._collect()
            self._in_work = len(batch)
            if batch:
                await self._revise(self._scorer, batch, emit)
            await self._journal_given_up(emit)

    async def _revise(self, scorer: NamedScorer, batch: Sequence[_Offered], emit: Emit) -> None:
        titles = [offered.news.title for offered in batch]
        call = self._in_thread(partial(score_texts, scorer, titles, embedded=False))
        loop = asyncio.get_running_loop()
        ends = max(offered.since for offered in batch) + self._within
        await asyncio.wait({call}, timeout=max(0.0, ends - loop.time()))
        self._in_work = 0
        if not call.done():
            for offered in batch:
                self._give_up_late(offered)
            self._health.state = "waiting"
            self._failed(f"no answer within {format_duration(round(self._within * 1000))}")
            await self._wait_for(call, emit)  # one call at a time
            self._health.state = "live"
            self._result(call)
            return
        if call.exception() is not None:
            self._health.failed_headlines += len(batch)
            self._given_up.update((offered.news.id, "failed") for offered in batch)
        judged, done = self._result(call), loop.time()
        for offered, scored in zip(batch, judged, strict=True):
            provenance = provenance_of(scored.score)
            if done - offered.since > self._within:
                self._give_up_late(offered)
            elif provenance is not None and provenance.fallback:
                self._health.unanswered += 1
                self._given_up[offered.news.id] = "unanswered"
                self._failed(f"{provenance.model}: {provenance.fallback}")
            else:
                waited = (done - offered.since) * 1000
                await deliver(emit, self._sentiment(offered.news, scored, scorer.fingerprint, waited))

    def _sentiment(self, news: News, scored: ScoredText, model: str, waited: float) -> Sentiment:
        """Return the revision; `waited` is in ms."""
        score, now = scored.score, self._clock.now()
        if reason := defect_of(scored):
            self._health.unsound += 1
            self._failed(f"model {model[:12]}: {reason}")
            scored = ScoredText(score)
        abstained = score.abstained or bool(reason)
        chances = THIRDS if reason else (score.bearish, score.neutral, score.bullish)
        self._health.revised += 1
        self._health.abstained += abstained
        return Sentiment(
            news.id,
            now,
            now,
            *chances,
            model,
            abstained,
            waited,
            assets=scored.assets,
            kind=scored.kind,
            kind_confidence=scored.kind_confidence,
            provenance=provenance_of(score),
        )

    def _failed(self, error: object) -> None:
        self._health.failed(error, self._clock.now())

    def _in_thread(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Start blocking work. Wait for it by `asyncio.wait`, which doesn't cancel it: the thread goes on."""
        self._call = call = asyncio.get_running_loop().run_in_executor(self._threads, work)
        call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # a stop waits for none
        return call

    def _result(self, call: asyncio.Future[_T]) -> _T:
        """Return the result of a call that has ended; raise and note its error."""
        error = call.exception()
        if error is not None:
            self._failed(error)
        return call.result()

    async def _wait_for(self, call: asyncio.Future[Any], emit: Emit) -> None:
        """Wait for a call that may hang; meanwhile give up the headlines whose time is over."""
        while True:
            await self._journal_given_up(emit)
            await asyncio.wait({call}, timeout=max(self._within, _LEAST_WAIT))
            self._expire()
            if call.done():
                return

    async def _collect(self) -> list[_Offered]:
        """Wait for headlines, and take those that can still be revised in time. There may be none, if others
        were given up.
        """
        while not self._waiting and not self._given_up:
            self._filled.clear()
            await self._filled.wait()
        self._expire()
        most = min(self._batch, len(self._waiting))
        return [self._waiting.popitem(last=False)[1] for _ in range(most)]

    def _expire(self) -> None:
        """Give up the headlines that can no longer be revised in time. They wait in order of time."""
        earliest = asyncio.get_running_loop().time() - self._within
        while self._waiting and next(iter(self._waiting.values())).since < earliest:
            self._give_up_late(self._waiting.popitem(last=False)[1])

    def _give_up_late(self, offered: _Offered) -> None:
        self._health.late += 1
        self._given_up[offered.news.id] = "late"

    async def _journal_given_up(self, emit: Emit) -> None:
        """Emit commands that name the headlines given up since the last time."""
        for command, ids in given_up(dict(self._given_up), self._clock.now()):
            await deliver(emit, command)
            for news_id in ids:
                self._given_up.pop(news_id, None)
