"""The news producer: each feed on its own schedule, so that one that fails never keeps the others waiting."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec
import structlog

from agent.config.live import FeedConfig, NewsConfig
from agent.core.durations import format_duration
from agent.core.events import HOUR_MS, News
from agent.core.masking import mask, mask_also, secrets_in, without_secrets
from agent.data.text import one_line
from agent.live.interfaces.producer import Emit, Health, deliver
from agent.live.interfaces.status import FeedHealth
from agent.live.news.destinations import FeedAccess
from agent.live.news.document import Document, Entry, newest_first
from agent.live.news.fetch import Answer, FetchError, fetch
from agent.live.news.parser_pool import ParseKilled, ParserPool
from agent.live.news.seen_entries import FeedMemory, MemorySeenStore, SeenStore
from agent.system.backoff import delays
from agent.system.clock import Clock

_LONGEST_LABEL: Final = 100
_LONGEST_URL: Final = 2_000
_SHORT_URL: Final = 90  # characters of it before an error
_LONGEST_ERROR: Final = 400
_log: Final = structlog.get_logger(__name__)


class NewsProducer:
    """Headlines of all feeds of the configuration. `seen` remembers what was given out; `rng` spreads the
    requests.
    """

    name = "rss"

    def __init__(
        self,
        config: NewsConfig,
        clock: Clock,
        *,
        seen: SeenStore | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._seen = seen or MemorySeenStore()
        self._rng = rng or random.Random()
        secrets = tuple({secret: None for feed in config.feeds for secret in secrets_in(feed.url)})
        self._readers = [
            _FeedReader(feed, config, clock, self._seen, self._rng, secrets) for feed in config.feeds
        ]

    @property
    def feeds(self) -> list[FeedHealth]:
        """A snapshot of each feed."""
        return [msgspec.structs.replace(reader.health) for reader in self._readers]

    @property
    def health(self) -> Health:
        """A snapshot of all feeds together: live where at least one is."""
        feeds = self.feeds
        total = Health(self.name)
        for field in ("connects", "messages", "bytes", "duplicates", "errors"):
            setattr(total, field, sum(getattr(feed, field) for feed in feeds))
        total.last_message_at = max((feed.last_message_at for feed in feeds), default=0)
        if failed := max(feeds, key=lambda feed: feed.last_error_at, default=None):
            total.last_error, total.last_error_at = failed.last_error, failed.last_error_at
        states = [feed.state for feed in feeds]
        total.state = next(
            (state for state in ("live", "waiting", "connecting", "disabled") if state in states), "stopped"
        )
        return total

    async def run(self, emit: Emit) -> None:
        """Emit `News` until cancelled. Raises only what `emit` and the store raise."""
        async with (
            ParserPool(self._config.parse_timeout, self._config.parse_memory) as pool,
            asyncio.TaskGroup() as tasks,
        ):
            for reader in self._readers:
                tasks.create_task(reader.run(pool, emit))


class _FeedReader:
    """One feed: polled, parsed, and given out."""

    def __init__(
        self,
        feed: FeedConfig,
        config: NewsConfig,
        clock: Clock,
        seen: SeenStore,
        rng: random.Random,
        secrets: tuple[str, ...],  # of all feeds' URLs
    ) -> None:
        self.health = FeedHealth(
            one_line(feed.label, _LONGEST_LABEL), url=mask(one_line(feed.url, _LONGEST_URL))
        )
        self._secrets = secrets
        self._feed = feed
        self._config = config
        self._clock = clock
        self._seen = seen
        self._rng = rng
        self._memory = FeedMemory()
        self._access = FeedAccess(feed.url, config.allow_private)
        self._kills: Iterator[float] = iter(())  # the waits after documents that had to be killed
        self._killed_at = 0.0
        self._given: deque[tuple[int, int]] = deque()  # when, and how many headlines, within the last hour
        self._log = _log.bind(feed=feed.label)

    async def run(self, pool: ParserPool, emit: Emit) -> None:
        """Poll on schedule, more slowly while the feed fails; ends if the feed is gone for good."""
        self.health.state = "connecting"
        if not self._memory.read:
            self._memory = await self._seen.load(self._feed.url) or self._memory
        await self._sleep(self._config.spread / 1000 * self._rng.random())
        retries = delays(self._config.retry, self._rng)
        async with self._access.session(self._config) as session:
            while True:
                wait = self._feed.interval / 1000
                self.health.connects += 1
                try:
                    document, answer = await self._get(session, pool)
                except Exception as error:  # noqa: BLE001 the supervision boundary of one feed: parsers fail in every way
                    asked = error.retry_after if isinstance(error, FetchError) else 0.0
                    wait = max(wait, asked, next(retries))
                    if isinstance(error, ParseKilled):
                        wait = max(wait, self._after_kill())
                    self._failed(error, wait)
                    if isinstance(error, FetchError) and error.status == HTTPStatus.GONE:
                        self.health.state = "disabled"
                        return
                else:
                    self.health.state = "live"
                    retries = delays(self._config.retry, self._rng)
                    if document is not None:
                        await self._give_out(document, answer, emit)
                await self._sleep(wait * (1 + self._config.jitter * self._rng.random()))

    async def _sleep(self, seconds: float) -> None:
        self.health.next_poll_at = self._clock.now() + round(1000 * seconds)
        await asyncio.sleep(seconds)

    def _after_kill(self) -> float:
        """Seconds to wait; longer each time, until as long as the longest wait passes without one: a good
        document is no excuse.
        """
        if not self._suspect():
            self._kills = delays(self._config.retry, self._rng)
        self.health.killed += 1
        self._killed_at = asyncio.get_running_loop().time()
        return next(self._kills)

    def _suspect(self) -> bool:
        """Whether a document of this feed had to be killed lately."""
        since = asyncio.get_running_loop().time() - self._killed_at
        return self.health.killed > 0 and since <= 2 * self._config.retry.ceiling / 1000

    def _failed(self, error: Exception, wait: float) -> None:
        if isinstance(error, FetchError) and error.status:
            self.health.status = error.status
        self.health.state = "waiting"
        reason = self._clean(one_line(str(error), _LONGEST_ERROR) or type(error).__name__)
        if isinstance(error, ParseKilled):
            reason += f"; next try in {format_duration(round(wait) * 1000)}"
        self.health.failed(f"{self.health.url[:_SHORT_URL]}: {reason}", self._clock.now())
        self._log.warning("feed failed", error=reason, kind=type(error).__name__, wait_s=round(wait, 3))

    def _clean(self, text: str) -> str:
        """The text without secrets: those that look like one, and those of the feeds' URLs wherever a
        server repeats them.
        """
        return mask_also(text, self._secrets)

    async def _get(self, session: aiohttp.ClientSession, pool: ParserPool) -> tuple[Document | None, Answer]:
        """The document, or None if it is unchanged."""
        memory = self._memory
        answer = await fetch(
            session,
            self._feed.url,
            self._config,
            self._clock,
            etag=memory.etag,
            last_modified=memory.last_modified,
            access=self._access,
        )
        self.health.messages += 1
        self.health.bytes += answer.received
        self.health.status = answer.status
        self.health.last_message_at = self._clock.now()
        moved_to = self._clean(one_line(answer.moved_to, _LONGEST_URL))
        if moved_to != self.health.moved_to:
            self.health.moved_to = moved_to
            if moved_to:
                self._log.warning("feed moved for good", to=moved_to)
        if answer.body is None:
            self.health.unchanged += 1
            return None, answer
        document = await pool.parse(
            answer.body,
            url=without_secrets(answer.url),
            content_type=answer.content_type,
            suspect=self._suspect(),
        )
        return document, answer

    async def _give_out(self, document: Document, answer: Answer, emit: Emit) -> None:
        """Emit what is new, oldest first, and remember it. The validators come last: with them, a crash
        would lose entries.
        """
        memory = self._memory
        now = self._clock.now()
        listed = newest_first(document.entries, self._config.max_entries, now + self._config.max_ahead)
        new: list[Entry] = []
        names: set[str] = set()
        for entry in reversed(listed):  # of two that are the same, the older one is given out
            if not memory.knows(entry) and names.isdisjoint(entry.names):
                new.append(entry)
            names.update(entry.names)
        self.health.duplicates += len(listed) - len(new)
        self.health.empty += document.empty
        fresh = [(self._news(entry, document, now), entry) for entry in new]
        fresh.sort(key=lambda pair: pair[0].ts)
        for news, entry in self._within_limits(fresh, now):
            await deliver(emit, news)
            memory.remember(entry)
            self.health.news += 1
            self.health.distrusted += not news.trusted_time
        memory.forget(max(self._config.max_seen, 2 * len(listed)))
        validators = ("", "") if document.cut_off else (answer.etag, answer.last_modified)
        if new or not memory.read or validators != (memory.etag, memory.last_modified):
            memory.read = True
            memory.etag, memory.last_modified = validators
            await self._seen.save(self._feed.url, memory)

    def _within_limits(self, fresh: list[tuple[News, Entry]], now: int) -> list[tuple[News, Entry]]:
        """The newest that the limits allow; the others are counted, and never given out. A first document
        is bounded by itself.
        """
        if not self._memory.read:
            return fresh
        # the clock may have been set back
        while self._given and not now - HOUR_MS < self._given[0][0] <= now:
            self._given.popleft()
        hour = self._config.max_new_per_hour - sum(count for _, count in self._given)
        allowed = max(0, min(self._config.max_new_per_poll, hour, len(fresh)))
        if allowed:
            self._given.append((now, allowed))
        left_out = fresh[: len(fresh) - allowed]
        if left_out:
            for _, entry in left_out:
                self._memory.remember(entry)
            self.health.over_limit += len(left_out)
            limit = "max_new_per_hour" if hour < self._config.max_new_per_poll else "max_new_per_poll"
            reason = f"{self.health.over_limit:,} headlines over the limit were not read (news.{limit})"
            self.health.failed(f"{self.health.url[:_SHORT_URL]}: {reason}", self._clock.now())
            self._log.warning(
                "headlines over the limit", left_out=len(left_out), total=self.health.over_limit, limit=limit
            )
        return fresh[len(left_out) :]

    def _news(self, entry: Entry, document: Document, now: int) -> News:
        max_age = self._config.max_age if self._memory.read else self._config.backlog_age
        published = entry.published
        if published is None or published > now + self._config.max_ahead:
            # It is new to a feed that we know, so it is fresh; of a backlog nobody knows how old it is.
            stale = entry.latest is not None and now - entry.latest > max_age
            ts, trusted, actionable = now, False, self._memory.read and not stale
        elif published < now - self._config.ancient_after:
            ts, trusted, actionable = now, False, False
        else:
            ts, trusted, actionable = min(published, now), True, now - published <= max_age
        return News(
            hashlib.blake2b(
                f"{self._feed.url}\x1f{self._memory.key_of(entry)}".encode(), digest_size=16
            ).hexdigest(),
            ts,
            now,
            self._known(entry.title),
            self._known(entry.summary),
            self._known(entry.publisher or document.title) or self.health.name,
            self._known(entry.url),
            self._feed.currencies,
            self._feed.label,
            self._known(entry.published_raw),
            trusted,
            actionable,
        )

    def _known(self, text: str) -> str:
        """The text without the secrets of the feeds' URLs, which a server can repeat in what it lists."""
        return self._clean(text) if any(secret in text for secret in self._secrets) else text
