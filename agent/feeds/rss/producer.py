"""The news producer: each feed on its own schedule, so that one that fails never keeps the others waiting."""

from __future__ import annotations

import asyncio
import hashlib
import random
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec
import structlog

from agent.clock import Clock
from agent.config_live import FeedConfig, NewsConfig
from agent.events import News
from agent.feeds.addresses import is_loopback
from agent.feeds.backoff import delays
from agent.feeds.producer import Emit, Health, deliver
from agent.feeds.rss.fetch import Answer, FetchError, fetch
from agent.feeds.rss.parse import Document, Entry, parse
from agent.feeds.rss.seen import FeedMemory, MemorySeenStore, SeenStore

_log: Final = structlog.get_logger(__name__)


class FeedHealth(Health):
    """`Health` of one feed: a message is an answer, a duplicate an entry that had been given out before."""

    url: str = ""
    status: int = 0  # HTTP, of the last answer
    unchanged: int = 0  # answers without a new document
    news: int = 0  # entries given out
    empty: int = 0  # entries without a word
    distrusted: int = 0  # dates missing, in the future or ancient
    next_poll_at: int = 0  # UTC ms
    moved_to: str = ""  # where the feed says it is for good


class NewsProducer:
    """Headlines of all feeds of the configuration. `seen` remembers what was given out; `rng` spreads the requests."""

    name = "rss"

    def __init__(
        self, config: NewsConfig, clock: Clock, *, seen: SeenStore | None = None, rng: random.Random | None = None
    ) -> None:
        self._config = config
        self._clock = clock
        self._seen = seen or MemorySeenStore()
        self._rng = rng or random.Random()
        self._readers = [_FeedReader(feed, config, clock, self._seen, self._rng) for feed in config.feeds]

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
        total.state = next((state for state in ("live", "waiting", "connecting", "disabled") if state in states), "stopped")
        return total

    async def run(self, emit: Emit) -> None:
        """Emit `News` until cancelled. Raises only what `emit` and the store raise."""
        timeout = aiohttp.ClientTimeout(
            total=self._config.total_timeout / 1000, sock_connect=self._config.connect_timeout / 1000
        )
        # Proxies of the environment are for the world outside.
        outside = not all(is_loopback(feed.url) for feed in self._config.feeds)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=outside) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for reader in self._readers:
                tasks.create_task(reader.run(session, emit))


class _FeedReader:
    """One feed: polled, parsed, and given out."""

    def __init__(self, feed: FeedConfig, config: NewsConfig, clock: Clock, seen: SeenStore, rng: random.Random) -> None:
        self.health = FeedHealth(feed.label, url=feed.url)
        self._feed = feed
        self._config = config
        self._clock = clock
        self._seen = seen
        self._rng = rng
        self._memory = FeedMemory()
        self._log = _log.bind(feed=feed.label)

    async def run(self, session: aiohttp.ClientSession, emit: Emit) -> None:
        """Poll on schedule, more slowly while the feed fails; ends where the feed is gone for good."""
        self.health.state = "connecting"
        if not self._memory.read:
            self._memory = await self._seen.load(self._feed.url) or self._memory
        await self._sleep(self._config.spread / 1000 * self._rng.random())
        retries = delays(self._config.retry, self._rng)
        while True:
            wait = self._feed.interval / 1000
            self.health.connects += 1
            try:
                document, answer = await self._get(session)
            except Exception as error:  # noqa: BLE001 the supervision boundary of one feed: parsers fail in every way
                asked = error.retry_after if isinstance(error, FetchError) else 0.0
                wait = max(wait, asked, next(retries))
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

    def _failed(self, error: Exception, wait: float) -> None:
        if isinstance(error, FetchError) and error.status:
            self.health.status = error.status
        self.health.state = "waiting"
        self.health.failed(f"{self._feed.url}: {str(error) or type(error).__name__}", self._clock.now())
        self._log.warning("feed failed", error=str(error), kind=type(error).__name__, wait_s=round(wait, 3))

    async def _get(self, session: aiohttp.ClientSession) -> tuple[Document | None, Answer]:
        """The document, or None where it is unchanged."""
        memory = self._memory
        answer = await fetch(
            session, self._feed.url, self._config, self._clock, etag=memory.etag, last_modified=memory.last_modified
        )
        self.health.messages += 1
        self.health.bytes += answer.received
        self.health.status = answer.status
        self.health.last_message_at = self._clock.now()
        if answer.moved_to != self.health.moved_to:
            self.health.moved_to = answer.moved_to
            if answer.moved_to:
                self._log.warning("feed moved for good", to=answer.moved_to)
        if answer.body is None:
            self.health.unchanged += 1
            return None, answer
        # In a thread: a large document takes as long as many klines.
        async with asyncio.timeout(self._config.parse_timeout / 1000):
            document = await asyncio.to_thread(parse, answer.body, url=answer.url, content_type=answer.content_type)
        return document, answer

    async def _give_out(self, document: Document, answer: Answer, emit: Emit) -> None:
        """Emit what is new, oldest first, and remember it. The validators come last: with them, a crash would lose entries."""
        memory = self._memory
        listed = {entry.key: entry for entry in document.entries[: self._config.max_entries]}
        new = memory.unseen(listed)
        self.health.duplicates += len(listed) - len(new)
        self.health.empty += document.empty
        now = self._clock.now()
        fresh = [(self._news(listed[key], document, now), key) for key in reversed(listed) if key in new]
        for news, key in sorted(fresh, key=lambda pair: pair[0].ts):
            await deliver(emit, news)
            memory.remember(key)
            self.health.news += 1
            self.health.distrusted += not news.trusted_time
        memory.forget(max(self._config.max_seen, 2 * len(listed)))
        validators = ("", "") if document.cut_off else (answer.etag, answer.last_modified)
        if new or not memory.read or validators != (memory.etag, memory.last_modified):
            memory.read = True
            memory.etag, memory.last_modified = validators
            await self._seen.save(self._feed.url, memory)

    def _news(self, entry: Entry, document: Document, now: int) -> News:
        max_age = self._config.max_age if self._memory.read else self._config.backlog_age
        published = entry.published
        if published is None or published > now + self._config.max_ahead:
            # It is new to a feed that we know, so it is fresh; of a backlog nobody knows how old it is.
            ts, trusted, actionable = now, False, self._memory.read
        elif published < now - self._config.ancient_after:
            ts, trusted, actionable = now, False, False
        else:
            ts, trusted, actionable = min(published, now), True, now - published <= max_age
        return News(
            hashlib.blake2b(f"{self._feed.url}\x1f{entry.key}".encode(), digest_size=16).hexdigest(),
            ts,
            now,
            entry.title,
            entry.summary,
            entry.publisher or document.title or self._feed.label,
            entry.url,
            self._feed.currencies,
            self._feed.label,
            entry.published_raw,
            trusted,
            actionable,
        )
