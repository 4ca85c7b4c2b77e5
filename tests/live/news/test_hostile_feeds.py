"""The news producer and hostile servers: slow documents, private addresses, floods, terminal escapes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from agent.config.live import FeedConfig, NewsConfig
from agent.core.events import HOUR_MS, News
from agent.live.news.news_producer import NewsProducer
from agent.system.backoff import BackoffConfig
from tests.support.feed_server import FeedServer, endless, item, numbers, rss
from tests.support.producers import T0, EventCollector, ManualClock, until

QUICK = BackoffConfig(first=1, ceiling=4, jitter=0)
SLOWER = BackoffConfig(first=20, factor=2, ceiling=600_000, jitter=0)
Run = Callable[[Any], asyncio.Task[None]]


def feed(url: str, name: str = "wire", **other: Any) -> FeedConfig:
    return FeedConfig.model_validate({"url": url, "name": name, "interval": 5} | other)


def config_of(*feeds: FeedConfig, **other: Any) -> NewsConfig:
    return NewsConfig.model_validate({"feeds": feeds, "spread": 0, "jitter": 0, "retry": QUICK} | other)


@pytest.mark.slow
async def test_slow_documents_delay_no_other_feed_and_their_waits_grow(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    """Six such feeds once occupied all threads: other feeds were not polled, and names not resolved."""
    hostile = [feed(feed_server.at(f"/{number}", endless()), f"hostile {number}") for number in range(6)]
    good = feed(feed_server.at("/good", *(rss(item(number)) for number in range(40))), "good")
    producer = NewsProducer(config_of(*hostile, good, parse_timeout=400, retry=SLOWER), clock)
    background(producer.run(collector))
    await until(lambda: len(collector.news) >= 12 and sum(one.killed for one in producer.feeds) >= 8)
    *bad, fine = producer.feeds
    assert fine.errors <= fine.killed, (
        "on a busy machine a small document may take longer than this test's limit"
    )
    assert list(numbers([news.title for news in collector.news]))[:12] == list(range(12))
    assert all(one.state == "waiting" for one in bad if one.killed)
    for one in bad:
        if one.killed:
            assert "parse took longer than" in one.last_error
            assert "killed; next try in " in one.last_error
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)  # no thread is occupied
    assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def test_a_good_document_between_two_bad_ones_does_not_shorten_the_wait(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    url = feed_server.at("/feed", endless(), rss(item(1)), endless(), rss(item(1), item(2)), endless())
    producer = NewsProducer(config_of(feed(url), parse_timeout=300, retry=SLOWER), clock)
    waits = []
    task = background(producer.run(collector))
    while len(waits) < 3 and not task.done():
        seen = producer.feeds[0].killed
        await until(lambda: producer.feeds[0].killed > seen)  # noqa: B023 waited for at once
        waits.append(producer.feeds[0].next_poll_at - T0)
    assert waits == [20, 40, 80]


# -- redirects -----------------------------------------------------------------------------------------------


async def test_a_redirect_to_a_private_address_is_not_followed_and_leaks_nothing(
    feed_server: FeedServer,
    clock: ManualClock,
    collector: EventCollector,
    background: Run,
    captured: Callable[[], str],
) -> None:
    visited = []

    async def internal(request: web.BaseRequest) -> web.Response:
        visited.append(request.path)
        return web.Response(body=rss(item(1, title="the internal page")))

    runner = web.ServerRunner(web.Server(internal))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        url = feed_server.at(
            "/feed", web.Response(status=302, headers={"Location": f"http://127.0.0.1:{port}/admin"})
        )
        producer = NewsProducer(config_of(feed(url)), clock)
        background(producer.run(collector))
        await until(lambda: producer.feeds[0].errors >= 3)
    finally:
        await runner.cleanup()
    assert visited == []
    assert collector.events == []
    assert "127.0.0.1, which is not on the public internet" in producer.feeds[0].last_error
    assert "allow_private" in producer.feeds[0].last_error
    assert "internal page" not in captured() + str(producer.feeds)


# -- floods --------------------------------------------------------------------------------------------------


def batch(number: int, size: int) -> bytes:
    return rss(*(item(1_000 * number + n, published=T0 - 1_000 * n) for n in range(size)))


async def test_new_headlines_per_poll_and_hour_are_limited_and_the_rest_counted(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    url = feed_server.at("/feed", batch(0, 1), *(batch(number, 30) for number in range(1, 6)))
    producer = NewsProducer(config_of(feed(url), max_new_per_poll=20, max_new_per_hour=50), clock)
    background(producer.run(collector))
    await until(lambda: feed_server.asked("/feed") >= 8)
    (health,) = producer.feeds
    assert len(collector.news) == 1 + 20 + 20 + 10
    assert health.over_limit == 5 * 30 - 50
    assert "100 headlines over the limit were not read (news.max_new_per_hour)" in health.last_error
    newest = [news for news in collector.news if 1_000 <= next(numbers([news.title])) < 2_000]
    assert sorted(numbers([news.title for news in newest])) == list(range(1_000, 1_020)), "the newest count"

    clock.time += HOUR_MS + 1
    feed_server.at("/feed", batch(9, 15))
    await until(lambda: len(collector.news) == 51 + 15)


async def test_the_first_document_of_a_feed_is_not_limited(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    backlog = rss(*(item(number, published=T0 - HOUR_MS - number) for number in range(60)))
    url = feed_server.at("/feed", backlog)
    producer = NewsProducer(config_of(feed(url), max_new_per_poll=20, max_new_per_hour=20), clock)
    background(producer.run(collector))
    await until(lambda: feed_server.asked("/feed") >= 3)
    assert len(collector.news) == 60
    assert not any(news.actionable for news in collector.news)
    assert producer.feeds[0].over_limit == 0


# -- output --------------------------------------------------------------------------------------------------


def raw(reply: bytes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a reply with exactly these bytes, which no HTTP library would send."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(reply)  # type: ignore[attr-defined]
        request.transport.close()
        return web.Response()

    return answer


def assert_shows_no_control_character(*texts: str) -> None:
    for text in texts:
        assert not [c for c in text if not c.isprintable() and c != "\n"], repr(text)


async def test_control_characters_in_a_reason_phrase_are_escaped(
    feed_server: FeedServer,
    clock: ManualClock,
    collector: EventCollector,
    background: Run,
    captured: Callable[[], str],
) -> None:
    phrase = "\x1b[2J\x1b]0;owned\x07\x9b31m Nope".encode("latin-1")
    url = feed_server.at("/feed", raw(b"HTTP/1.1 503 " + phrase + b"\r\nContent-Length: 0\r\n\r\n"))
    producer = NewsProducer(config_of(feed(url)), clock)
    background(producer.run(collector))
    await until(lambda: producer.feeds[0].errors >= 2)
    assert_shows_no_control_character(producer.feeds[0].last_error, producer.health.last_error, captured())


async def test_control_characters_in_a_feeds_text_are_escaped(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    dirty = "up\u202e\u2066\u2028\x9bdown"
    body = rss(item(1, title=dirty, description=dirty, link=f"https://news.test/{dirty}"), title=dirty)
    background(NewsProducer(config_of(feed(feed_server.at("/feed", body))), clock).run(collector))
    await until(lambda: bool(collector.news))
    (news,) = collector.news
    assert_shows_no_control_character(news.title, news.summary, news.publisher, news.url, news.published_raw)


CANARY = "Canary9f3bA1b2C3d4E5f6G7"


@pytest.mark.parametrize(
    "place",
    [
        "http://{canary}:pw-{canary}@HOST/feed",
        "http://HOST/feed?apikey={canary}&page=2",
        "http://HOST/feed?sig={canary}",
        "http://HOST/bot123456:{canary}/feed",
        "http://HOST/hooks/{canary}/feed",
    ],
)
@pytest.mark.parametrize("kind", ["fine", "error", "echo", "redirect", "refused", "no feed", "gone"])
async def test_a_secret_in_a_feeds_url_is_never_shown(
    feed_server: FeedServer,
    clock: ManualClock,
    collector: EventCollector,
    background: Run,
    captured: Callable[[], str],
    place: str,
    kind: str,
) -> None:
    own = place.replace("HOST", feed_server.url.removeprefix("http://")).format(canary=CANARY)
    path = "/" + own.split("/", 3)[3].partition("?")[0]
    replies: dict[str, Any] = {
        "fine": rss(item(1, link="/relative", title=f"see {own}", description=f"or {CANARY}"), title=own),
        "error": web.Response(status=500),
        "echo": raw(f"HTTP/1.1 403 no {own} for {CANARY}\r\nContent-Length: 0\r\n\r\n".encode()),
        "redirect": web.Response(
            status=301, headers={"Location": own + ("&" if "?" in own else "?") + f"token={CANARY}"}
        ),
        "refused": web.Response(status=302, headers={"Location": f"ftp://{CANARY}:{CANARY}@h/?key={CANARY}"}),
        "no feed": b"<html>" + own.encode() + b"</html>",
        "gone": web.Response(status=410),
    }
    feed_server.at(path, replies[kind])
    producer = NewsProducer(config_of(feed(own)), clock)
    background(producer.run(collector))
    await until(lambda: producer.feeds[0].errors > 0 or bool(collector.news))
    said = captured() + str(producer.feeds) + str(producer.health) + str(collector.events)
    assert CANARY not in said
    assert "***" in str(producer.feeds[0].url)
    assert all(
        isinstance(event, News) and b"\\u" not in msgspec.json.encode(event) for event in collector.events
    )
