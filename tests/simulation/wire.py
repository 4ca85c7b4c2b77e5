"""The news feeds behind the product's own `fetch`: documents that grow, come late, damaged, doubled, or not at all."""

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
from agent.live.news.document import Document
from agent.live.news.fetch import Answer, FetchError
from agent.live.news.parse import parse
from agent.system.clock import Clock
from tests.simulation.market import Market
from tests.simulation.prices import T0, headline

FEEDS: Final = ("http://127.0.0.1:9/one.rss", "http://127.0.0.1:9/two.rss")
_LATEST: Final = 90.0  # seconds from a headline's publication until its feed lists it, at most


class Item(msgspec.Struct):
    """A headline of a feed; times are seconds of the loop."""

    feed: str
    title: str
    published: float
    listed: float


class Wire:
    """What the publishers write, out of the seed, until `until` (seconds of the loop)."""

    def __init__(self, market: Market, dice: random.Random, until: float, say: Callable[[str], None]) -> None:
        self._market = market
        self._say = say
        self.items: list[Item] = []
        moment = 0.0
        while (moment := moment + dice.expovariate(1 / 90)) < until:
            listed = moment + _LATEST * dice.random() ** 3
            self.items.append(Item(dice.choice(FEEDS), headline(dice, len(self.items)), moment, listed))

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
    ) -> Answer:
        """As `agent.live.news.fetch.fetch`."""
        market, dice, weather = self._market, self._market.dice, self._market.weather
        await asyncio.sleep(market.latency())
        if market.dark or dice.random() < weather.feed_timeout:
            self._say(f"{url} does not answer")
            await asyncio.sleep(config.total_timeout / 1000)
            raise TimeoutError
        if dice.random() < weather.feed_error:
            self._say(f"{url} refuses")
            raise FetchError("HTTP 503", status=503, retry_after=dice.choice((0, 0, 45)))
        listed = [item for item in self.items if item.feed == url and item.listed <= market.loop.time()]
        tag = f'"{len(listed)}"'
        if tag == etag:
            return Answer(304, url, None)
        body = self._document(listed)
        if dice.random() < weather.feed_cut:
            self._say(f"{url} is cut off")
            body = body[: dice.randrange(1, len(body))]
        if dice.random() < weather.feed_damage:
            self._say(f"{url} is damaged")
            place = dice.randrange(len(body))
            body = body[:place] + b"\0" * dice.randrange(1, 40) + body[place + 40 :]
        return Answer(200, url, body, len(body), "application/rss+xml", tag)

    def _document(self, listed: list[Item]) -> bytes:
        """Newest first, as feeds have it; some list an entry twice, some an older one on top."""
        dice = self._market.dice
        listed = listed[::-1]
        if listed and dice.random() < self._market.weather.feed_doubled:
            listed.insert(dice.randrange(len(listed)), dice.choice(listed))
        items = "".join(
            f"<item><title>{escape(item.title)}</title><link>{item.feed}/{self.items.index(item)}</link>"
            f"<pubDate>{formatdate(T0 / 1000 + item.published, usegmt=True)}</pubDate></item>"
            for item in listed
        )
        return f"<?xml version='1.0'?><rss version='2.0'><channel><title>Wire</title>{items}</channel></rss>".encode()


class NoAccess:
    """In place of `FeedAccess`: its session opens nothing."""

    def __init__(self, url: str, allowed: tuple[str, ...]) -> None:
        self.url = url

    def session(self, config: NewsConfig) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class InlineParsers:
    """In place of `ParserPool`: the same parser, in a thread of the loop, which virtual time knows."""

    def __init__(self, timeout: int, memory: int) -> None:
        self.timeout = timeout

    async def __aenter__(self) -> InlineParsers:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def parse(
        self, body: bytes, *, url: str = "", content_type: str = "", suspect: bool = False
    ) -> Document:
        async with asyncio.timeout(self.timeout / 1000):
            return await asyncio.to_thread(parse, body, url=url, content_type=content_type)
