"""News feeds behind the product's `fetch`: documents arrive late, damaged, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from email.utils import formatdate
from typing import Any, Final
from xml.sax.saxutils import escape

import msgspec

from agent.config.live import NewsConfig
from agent.live.news.feed_parser import FeedDocument, parse_feed
from agent.live.news.fetch import FeedResponse, FetchError
from agent.system.clock import Clock
from tests.simulation.generated_data import T0, headline
from tests.simulation.simulated_market import SimulatedMarket

FEEDS: Final = ("http://127.0.0.1:9/one.rss", "http://127.0.0.1:9/two.rss")
_LATEST: Final = 90.0  # maximum seconds from a headline's publication until its feed lists it


class FeedItem(msgspec.Struct):
    """A headline of a feed; times are loop times."""

    feed: str
    title: str
    published: float
    listed: float


class SimulatedFeeds:
    """Random headlines of all publishers until `until` (loop time)."""

    def __init__(
        self, market: SimulatedMarket, rng: random.Random, until: float, log: Callable[[str], None]
    ) -> None:
        self._market = market
        self._log = log
        self.items: list[FeedItem] = []
        moment = 0.0
        while (moment := moment + rng.expovariate(1 / 90)) < until:
            listed = moment + _LATEST * rng.random() ** 3
            self.items.append(FeedItem(rng.choice(FEEDS), headline(rng, len(self.items)), moment, listed))

    async def fetch(
        self,
        session: Any,
        url: str,
        config: NewsConfig,
        clock: Clock,
        *,
        etag: str = "",
        last_modified: str = "",
        access: object,
    ) -> FeedResponse:
        """Stand in for `agent.live.news.fetch.fetch`."""
        market, rng, rates = self._market, self._market.rng, self._market.rates
        await asyncio.sleep(market.latency())
        if market.unreachable or rng.random() < rates.feed_timeout:
            self._log(f"{url} times out")
            await asyncio.sleep(config.total_timeout / 1000)
            raise TimeoutError
        if rng.random() < rates.feed_error:
            self._log(f"{url} returns an error")
            raise FetchError("HTTP 503", status=503, retry_after=rng.choice((0, 0, 45)))
        listed = [item for item in self.items if item.feed == url and item.listed <= market.loop.time()]
        tag = f'"{len(listed)}"'
        if tag == etag:
            return FeedResponse(304, url, None)
        body = self._document(listed)
        if rng.random() < rates.feed_cut:
            self._log(f"{url} is truncated")
            body = body[: rng.randrange(1, len(body))]
        if rng.random() < rates.feed_damage:
            self._log(f"{url} is damaged")
            place = rng.randrange(len(body))
            body = body[:place] + b"\0" * rng.randrange(1, 40) + body[place + 40 :]
        return FeedResponse(200, url, body, len(body), "application/rss+xml", tag)

    def _document(self, listed: list[FeedItem]) -> bytes:
        """Return the document, newest first. Some documents list an entry twice or an older entry on top."""
        rng = self._market.rng
        listed = listed[::-1]
        if listed and rng.random() < self._market.rates.feed_doubled:
            listed.insert(rng.randrange(len(listed)), rng.choice(listed))
        items = "".join(
            f"<item><title>{escape(item.title)}</title><link>{item.feed}/{self.items.index(item)}</link>"
            f"<pubDate>{formatdate(T0 / 1000 + item.published, usegmt=True)}</pubDate></item>"
            for item in listed
        )
        return (
            f"<?xml version='1.0'?><rss version='2.0'><channel><title>Wire</title>{items}</channel></rss>"
        ).encode()


class NoAccess:
    """Stands in for `DestinationPolicy`; its session opens nothing."""

    def __init__(self, url: str, allowed: tuple[str, ...]) -> None:
        self.url = url

    def session(self, config: NewsConfig) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class InlineParsers:
    """Stands in for `ParserPool`: the same parser, in a thread of the virtual loop."""

    def __init__(self, timeout: int, memory: int) -> None:
        self.timeout = timeout

    async def __aenter__(self) -> InlineParsers:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def parse(
        self, body: bytes, *, url: str = "", content_type: str = "", suspect: bool = False
    ) -> FeedDocument:
        async with asyncio.timeout(self.timeout / 1000):
            return await asyncio.to_thread(parse_feed, body, url=url, content_type=content_type)
