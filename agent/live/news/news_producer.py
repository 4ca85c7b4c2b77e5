"""News producer: poll each feed on its own schedule, so that a failing feed never delays the others."""

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
from agent.live.news.destinations import DestinationPolicy
from agent.live.news.feed_parser import FeedDocument, FeedEntry, newest_first
from agent.live.news.fetch import FeedResponse, FetchError, fetch
from agent.live.news.parser_pool import ParseKilled, ParserPool
from agent.live.news.seen_entries import SeenEntries
from agent.system.backoff import delays
from agent.system.clock import Clock

_MAX_LABEL: Final = 100
_MAX_URL: Final = 2_000
_MAX_URL_IN_ERROR: Final = 90  # characters
_MAX_ERROR: Final = 400
_log: Final = structlog.get_logger(__name__)


class NewsProducer:
    """Headlines of all configured feeds. `seen` holds the emitted entries by URL of the feed; `rng`
    spreads the requests.
    """

    name = "rss"

    def __init__(
        self,
        config: NewsConfig,
        clock: Clock,
        *,
        seen: dict[str, SeenEntries] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        seen = {} if seen is None else seen
        rng = rng or random.Random()
        secrets = tuple({secret: None for feed in config.feeds for secret in secrets_in(feed.url)})
        self._pollers = [
            _FeedPoller(feed, config, clock, seen.setdefault(feed.url, SeenEntries()), rng, secrets)
            for feed in config.feeds
        ]

    @property
    def feeds(self) -> list[FeedHealth]:
        """A snapshot of each feed."""
        return [msgspec.structs.replace(poller.health) for poller in self._pollers]

    @property
    def health(self) -> Health:
        """A snapshot of all feeds together; live if at least one feed is."""
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
        """Emit `News` until cancelled. Raises only what `emit` raises."""
        async with (
            ParserPool(self._config.parse_timeout, self._config.parse_memory) as pool,
            asyncio.TaskGroup() as tasks,
        ):
            for poller in self._pollers:
                tasks.create_task(poller.run(pool, emit))


class _FeedPoller:
    """Polls and parses one feed, and emits its new entries."""

    def __init__(
        self,
        feed: FeedConfig,
        config: NewsConfig,
        clock: Clock,
        seen: SeenEntries,
        rng: random.Random,
        secrets: tuple[str, ...],  # of all feeds' URLs
    ) -> None:
        self.health = FeedHealth(one_line(feed.label, _MAX_LABEL), url=mask(one_line(feed.url, _MAX_URL)))
        self._secrets = secrets
        self._feed = feed
        self._config = config
        self._clock = clock
        self._seen = seen
        self._rng = rng
        self._access = DestinationPolicy(feed.url, config.allow_private)
        self._kills: Iterator[float] = iter(())  # waits after documents whose parsing was killed
        self._killed_at = 0.0
        self._emitted: deque[tuple[int, int]] = deque()  # time (UTC ms) and number of headlines, last hour
        self._log = _log.bind(feed=feed.label)

    async def run(self, pool: ParserPool, emit: Emit) -> None:
        """Poll on schedule, with back-off while the feed fails; return if the server states that it is gone
        for good.
        """
        self.health.state = "connecting"
        await self._sleep(self._config.spread / 1000 * self._rng.random())
        retries = delays(self._config.retry, self._rng)
        async with self._access.session(self._config) as session:
            while True:
                wait = self._feed.interval / 1000
                self.health.connects += 1
                try:
                    document, response = await self._fetch_document(session, pool)
                except Exception as error:  # noqa: BLE001 supervision boundary of one feed
                    retry_after = error.retry_after if isinstance(error, FetchError) else 0.0
                    wait = max(wait, retry_after, next(retries))
                    if isinstance(error, ParseKilled):
                        wait = max(wait, self._wait_after_kill())
                    self._record_failure(error, wait)
                    if isinstance(error, FetchError) and error.status == HTTPStatus.GONE:
                        self.health.state = "disabled"
                        return
                else:
                    self.health.state = "live"
                    retries = delays(self._config.retry, self._rng)
                    if document is not None:
                        await self._emit_new(document, response, emit)
                await self._sleep(wait * (1 + self._config.jitter * self._rng.random()))

    async def _sleep(self, seconds: float) -> None:
        self.health.next_poll_at = self._clock.now() + round(1000 * seconds)
        await asyncio.sleep(seconds)

    def _wait_after_kill(self) -> float:
        """Return the seconds to wait; longer each time, even if good documents came in between.

        The waits start again from the shortest one after a long time without a kill.
        """
        if not self._was_killed_recently():
            self._kills = delays(self._config.retry, self._rng)
        self.health.killed += 1
        self._killed_at = asyncio.get_running_loop().time()
        return next(self._kills)

    def _was_killed_recently(self) -> bool:
        """Return whether parsing was killed within twice the longest retry wait."""
        since = asyncio.get_running_loop().time() - self._killed_at
        return self.health.killed > 0 and since <= 2 * self._config.retry.ceiling / 1000

    def _record_failure(self, error: Exception, wait: float) -> None:
        if isinstance(error, FetchError) and error.status:
            self.health.status = error.status
        self.health.state = "waiting"
        reason = self._mask(one_line(str(error), _MAX_ERROR) or type(error).__name__)
        if isinstance(error, ParseKilled):
            reason += f"; next try in {format_duration(round(wait) * 1000)}"
        self.health.failed(f"{self.health.url[:_MAX_URL_IN_ERROR]}: {reason}", self._clock.now())
        self._log.warning("feed failed", error=reason, kind=type(error).__name__, wait_s=round(wait, 3))

    def _mask(self, text: str) -> str:
        """Mask everything that looks like a secret, and the secrets of the feeds' URLs."""
        return mask_also(text, self._secrets)

    async def _fetch_document(
        self, session: aiohttp.ClientSession, pool: ParserPool
    ) -> tuple[FeedDocument | None, FeedResponse]:
        """Fetch and parse the document; it is None if unchanged."""
        seen = self._seen
        response = await fetch(
            session,
            self._feed.url,
            self._config,
            self._clock,
            etag=seen.etag,
            last_modified=seen.last_modified,
            access=self._access,
        )
        self.health.messages += 1
        self.health.bytes += response.received
        self.health.status = response.status
        self.health.last_message_at = self._clock.now()
        moved_to = self._mask(one_line(response.moved_to, _MAX_URL))
        if moved_to != self.health.moved_to:
            self.health.moved_to = moved_to
            if moved_to:
                self._log.warning("feed moved for good", to=moved_to)
        if response.body is None:
            self.health.unchanged += 1
            return None, response
        document = await pool.parse(
            response.body,
            url=without_secrets(response.url),
            content_type=response.content_type,
            suspect=self._was_killed_recently(),
        )
        return document, response

    async def _emit_new(self, document: FeedDocument, response: FeedResponse, emit: Emit) -> None:
        """Emit new entries, oldest first.

        The validators are stored last: otherwise an interruption would lose the entries that were not emitted
        yet.
        """
        seen = self._seen
        now = self._clock.now()
        listed = newest_first(document.entries, self._config.max_entries, now + self._config.max_ahead)
        new: list[FeedEntry] = []
        names: set[str] = set()
        for entry in reversed(listed):  # of two equal entries, the older one is emitted
            if not seen.is_known(entry) and names.isdisjoint(entry.names):
                new.append(entry)
            names.update(entry.names)
        self.health.duplicates += len(listed) - len(new)
        self.health.empty += document.empty
        fresh = [(self._to_news(entry, document, now), entry) for entry in new]
        fresh.sort(key=lambda pair: pair[0].ts)
        for news, entry in self._apply_limits(fresh, now):
            await deliver(emit, news)
            seen.add(entry)
            self.health.news += 1
            self.health.distrusted += not news.trusted_time
        seen.trim(max(self._config.max_seen, 2 * len(listed)))
        validators = ("", "") if document.cut_off else (response.etag, response.last_modified)
        seen.past_backlog = True
        seen.etag, seen.last_modified = validators

    def _apply_limits(self, fresh: list[tuple[News, FeedEntry]], now: int) -> list[tuple[News, FeedEntry]]:
        """Return the newest headlines within the limits, and drop the others; a backlog is limited by
        `max_entries` alone.
        """
        if not self._seen.past_backlog:
            return fresh
        # The second comparison handles a clock that was set back
        while self._emitted and not now - HOUR_MS < self._emitted[0][0] <= now:
            self._emitted.popleft()
        hour = self._config.max_new_per_hour - sum(count for _, count in self._emitted)
        allowed = max(0, min(self._config.max_new_per_poll, hour, len(fresh)))
        if allowed:
            self._emitted.append((now, allowed))
        left_out = fresh[: len(fresh) - allowed]
        if left_out:
            for _, entry in left_out:
                self._seen.add(entry)
            self.health.over_limit += len(left_out)
            limit = "max_new_per_hour" if hour < self._config.max_new_per_poll else "max_new_per_poll"
            reason = f"{self.health.over_limit:,} headlines over the limit were not read (news.{limit})"
            self.health.failed(f"{self.health.url[:_MAX_URL_IN_ERROR]}: {reason}", self._clock.now())
            total = self.health.over_limit
            self._log.warning("headlines over the limit", left_out=len(left_out), total=total, limit=limit)
        return fresh[len(left_out) :]

    def _to_news(self, entry: FeedEntry, document: FeedDocument, now: int) -> News:
        max_age = self._config.max_age if self._seen.past_backlog else self._config.backlog_age
        published = entry.published
        if published is None or published > now + self._config.max_ahead:
            # An entry that is new since the last poll is fresh; the age of one in a backlog is unknown
            stale = entry.latest is not None and now - entry.latest > max_age
            ts, trusted, actionable = now, False, self._seen.past_backlog and not stale
        elif published < now - self._config.ancient_after:
            ts, trusted, actionable = now, False, False
        else:
            ts, trusted, actionable = min(published, now), True, now - published <= max_age
        identity = f"{self._feed.url}\x1f{self._seen.new_key(entry)}".encode()
        return News(
            hashlib.blake2b(identity, digest_size=16).hexdigest(),
            ts,
            now,
            self._mask_url_secrets(entry.title),
            self._mask_url_secrets(entry.summary),
            self._mask_url_secrets(entry.publisher or document.title) or self.health.name,
            self._mask_url_secrets(entry.url),
            self._feed.currencies,
            self._feed.label,
            self._mask_url_secrets(entry.published_raw),
            trusted,
            actionable,
        )

    def _mask_url_secrets(self, text: str) -> str:
        """Mask the text if it repeats a secret of the feeds' URLs."""
        return self._mask(text) if any(secret in text for secret in self._secrets) else text
