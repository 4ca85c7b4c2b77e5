"""The news producer against feeds on loopback: new entries, actionable entries, and failing feeds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from agent.config.live import FeedConfig, NewsConfig
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS, Event, News
from agent.live.news.news_producer import NewsProducer
from agent.live.news.seen_entries import SeenEntries
from agent.system.backoff import BackoffConfig
from tests.support.feed_server import FeedServer, conditional, item, numbers, rss
from tests.support.producers import T0, EventCollector, ManualClock, until

QUICK = BackoffConfig(first=1, ceiling=4, jitter=0)
Run = Callable[[Any], asyncio.Task[None]]


def feed(url: str, **other: Any) -> FeedConfig:
    return FeedConfig.model_validate({"url": url, "name": "wire", "interval": 5} | other)


def config_of(*feeds: FeedConfig, **other: Any) -> NewsConfig:
    return NewsConfig.model_validate({"feeds": feeds, "spread": 0, "jitter": 0, "retry": QUICK} | other)


def emitted(collector: EventCollector) -> list[int]:
    return list(numbers([news.title for news in collector.news]))


async def test_an_entry_becomes_a_news_event(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    published = T0 - MINUTE_MS
    url = feed_server.at("/feed", rss(item(1, published=published, description="For <i>good</i>")))
    background(NewsProducer(config_of(feed(url, currencies=("BTC",))), clock).run(collector))
    await until(lambda: len(collector.news) == 1)
    (news,) = collector.news
    assert news == News(
        id=news.id,
        ts=published,
        available_at=T0,
        title="Miners sell 1 coins",
        summary="For good",
        publisher="The Test Wire",
        url="https://news.test/1",
        currencies=("BTC",),
        feed="wire",
        published_raw="Sat, 26 Sep 2026 07:59:00 GMT",
    )
    assert len(news.id) == 32


async def test_each_entry_is_emitted_once_and_the_oldest_first(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    at = {number: T0 - (10 - number) * MINUTE_MS for number in range(1, 6)}
    items = [item(number, published=at[number]) for number in range(1, 6)]
    url = feed_server.at("/feed", rss(*items[2::-1]), rss(*items[2::-1]), rss(*items[::-1]))
    producer = NewsProducer(config_of(feed(url)), clock)
    background(producer.run(collector))
    await until(lambda: feed_server.asked("/feed") >= 5)
    assert emitted(collector) == [1, 2, 3, 4, 5]
    assert len({news.id for news in collector.news}) == 5
    assert producer.feeds[0].duplicates >= 3
    assert producer.feeds[0].news == 5


# age, known feed?: actionable, trusted time
AGES = [
    (2 * MINUTE_MS, False, True, True),  # a backlog, but fresh
    (20 * MINUTE_MS, False, False, True),
    (20 * MINUTE_MS, True, True, True),
    (2 * HOUR_MS, True, False, True),  # stale
    (-2 * MINUTE_MS, True, True, True),  # a clock that is slightly fast
    (-HOUR_MS, True, True, False),  # in the future: emitted as new
    (-HOUR_MS, False, False, False),
    (None, True, True, False),  # no date: first seen now
    (None, False, False, False),
    (90 * DAY_MS, True, False, False),  # older than any trusted date
    (90 * DAY_MS, False, False, False),
]


@pytest.mark.parametrize(("age", "known", "actionable", "trusted"), AGES)
async def test_age_and_feed_state_decide_about_actionable_and_trusted_time(
    feed_server: FeedServer,
    clock: ManualClock,
    collector: EventCollector,
    background: Run,
    age: int | None,
    known: bool,
    actionable: bool,
    trusted: bool,
) -> None:
    entry = item(7, published=None if age is None else T0 - age)
    url = feed_server.at("/feed", *([rss()] if known else []), rss(entry))
    producer = NewsProducer(config_of(feed(url)), clock)
    background(producer.run(collector))
    await until(lambda: len(collector.news) == 1)
    (news,) = collector.news
    assert (news.actionable, news.trusted_time) == (actionable, trusted)
    assert news.available_at == T0
    assert news.ts == (min(T0 - (age or 0), T0) if trusted else T0)
    assert producer.feeds[0].distrusted == (not trusted)


@pytest.mark.parametrize(
    ("written", "ts", "actionable", "trusted"),
    [
        (
            "Sat, 26 Sep 2026 09:59:00 CEST",
            T0 - MINUTE_MS,
            True,
            True,
        ),  # T0 is 08:00 in UTC, 10:00 in Berlin, 05:00 in Brasilia
        ("Sat, 26 Sep 2026 04:59:00 BRT", T0 - MINUTE_MS, True, True),
        ("Sat, 26 Sep 2026 07:59:00 CEST", T0 - 121 * MINUTE_MS, False, True),  # older than max_age
        ("Sat, 26 Sep 2026 7:59:00 AM GMT", T0 - MINUTE_MS, True, True),
        ("Fri, 25 Sep 2026 8:01:00 PM GMT", T0 - 719 * MINUTE_MS, False, True),
        ("Sat, 26 Sep 2026 07:59:00 XYZ", T0, True, False),  # it may be less than a minute old
        ("2026-09-26T07:59:00", T0, True, False),
        # in the westernmost zone 06:59 in UTC: older than max_age
        ("Fri, 25 Sep 2026 18:59:00 XYZ", T0, False, False),
    ],
)
async def test_dates_are_converted_from_their_time_zones(
    feed_server: FeedServer,
    clock: ManualClock,
    collector: EventCollector,
    background: Run,
    written: str,
    ts: int,
    actionable: bool,
    trusted: bool,
) -> None:
    producer = NewsProducer(
        config_of(feed(feed_server.at("/feed", rss(), rss(item(7, pubDate=written))))), clock
    )
    background(producer.run(collector))
    await until(lambda: len(collector.news) == 1)
    (news,) = collector.news
    assert (news.ts, news.actionable, news.trusted_time, news.published_raw) == (
        ts,
        actionable,
        trusted,
        written,
    )
    assert producer.feeds[0].distrusted == (not trusted)


async def test_an_unchanged_document_is_not_downloaded_again(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    url = feed_server.at(
        "/feed", conditional(rss(item(1)), etag='W/"7"', last_modified="Sat, 26 Sep 2026 07:00:00 GMT")
    )
    producer = NewsProducer(config_of(feed(url)), clock)
    background(producer.run(collector))
    await until(lambda: producer.feeds[0].unchanged >= 3)
    assert emitted(collector) == [1]
    assert producer.feeds[0].bytes == len(rss(item(1)))
    assert producer.health.state == "live"


async def test_validators_of_an_unreadable_document_are_discarded(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    broken = web.Response(body=b"<html>Under repair</html>", headers={"ETag": '"7"'})
    url = feed_server.at("/feed", broken, conditional(rss(item(1)), etag='"7"'))
    background(NewsProducer(config_of(feed(url)), clock).run(collector))
    await until(lambda: emitted(collector) == [1])


async def test_the_missing_part_of_a_truncated_document_is_requested_again(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    whole = rss(item(1), item(2), item(3))
    half = web.Response(body=whole[: whole.index(b"<guid>id-2")], headers={"ETag": '"7"'})
    url = feed_server.at("/feed", half, conditional(whole, etag='"7"'))
    background(NewsProducer(config_of(feed(url)), clock).run(collector))
    await until(lambda: len(collector.news) == 3)
    assert emitted(collector) == [1, 3, 2]


async def test_old_entries_are_not_repeated_after_a_restart(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    seen: dict[str, SeenEntries] = {}
    url = feed_server.at("/feed", conditional(rss(item(1), item(2)), etag='"7"'))
    first = background(NewsProducer(config_of(feed(url)), clock, seen=seen).run(collector))
    await until(lambda: feed_server.asked("/feed") >= 2)
    first.cancel()
    feed_server.at("/feed", conditional(rss(item(1), item(2), item(3, published=T0)), etag='"8"'))
    background(NewsProducer(config_of(feed(url)), clock, seen=seen).run(collector))
    await until(lambda: len(collector.news) == 3)
    assert sorted(emitted(collector)) == [1, 2, 3]
    assert collector.news[-1].actionable
    assert feed_server.requests[-1].headers["If-None-Match"] in ('"7"', '"8"')


async def test_a_producer_cancelled_during_a_backlog_emits_the_rest_as_backlog(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    reached = asyncio.Event()

    async def stuck(event: Event) -> None:
        if len(collector.news) == 2:
            reached.set()
            await asyncio.Event().wait()
        collector(event)

    ages = {number: T0 - (60 - number) * MINUTE_MS for number in range(1, 5)}
    url = feed_server.at("/feed", rss(*(item(number, published=ages[number]) for number in range(4, 0, -1))))
    producer = NewsProducer(config_of(feed(url)), clock)
    task = background(producer.run(stuck))
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    await asyncio.wait([task])
    background(producer.run(collector))
    await until(lambda: len(collector.news) == 4)
    assert emitted(collector) == [1, 2, 3, 4]
    assert not any(news.actionable for news in collector.news)


async def test_a_huge_document_is_limited_to_its_newest_entries_and_emitted_once(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    url = feed_server.at("/feed", rss(*(item(number) for number in range(50))))
    config = config_of(feed(url), max_entries=20, max_seen=1)
    background(NewsProducer(config, clock).run(collector))
    await until(lambda: feed_server.asked("/feed") >= 4)
    assert sorted(emitted(collector)) == list(range(20))


async def test_the_same_id_in_two_feeds_gives_two_headlines(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    """Ids are unique only within a feed; the core detects duplicate stories."""
    feeds = [feed(feed_server.at(path, rss(item(1))), name=path) for path in ("/a", "/b")]
    background(NewsProducer(config_of(*feeds), clock).run(collector))
    await until(lambda: len(collector.news) == 2)
    assert len({news.id for news in collector.news}) == 2


# -- failing feeds -------------------------------------------------------------------------------------------


def never(request: web.Request) -> Any:
    async def wait() -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    return wait()


FAILURES = {
    "HTTP 500": web.Response(status=500),
    "neither RSS nor Atom": web.Response(body=b"<html>hello</html>"),
    "larger than 5000 bytes": web.Response(body=b" " * 6_000),
    "not an http(s) URL": web.Response(status=302, headers={"Location": "file:///etc/passwd"}),
    "more than 2 redirects": web.Response(status=302, headers={"Location": "/bad"}),
    "TimeoutError": never,
}


@pytest.mark.parametrize("reason", FAILURES)
async def test_a_failing_feed_is_retried_and_the_others_are_read(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run, reason: str
) -> None:
    good = [rss(*(item(number) for number in range(count))) for count in range(1, 5)]
    feeds = [
        feed(feed_server.at("/bad", FAILURES[reason]), name="bad"),
        feed(feed_server.at("/good", *good), name="good"),
    ]
    limits = {"total_timeout": 500} if reason == "TimeoutError" else {}
    config = config_of(*feeds, max_bytes=5_000, max_redirects=2, **limits)
    producer = NewsProducer(config, clock, rng=random.Random(1))
    background(producer.run(collector))
    await until(lambda: len(collector.news) == 4 and producer.feeds[0].errors >= 2)
    bad, fine = producer.feeds
    assert (bad.state, fine.state, producer.health.state) == ("waiting", "live", "live")
    assert reason in bad.last_error
    assert fine.errors == 0
    assert producer.health.errors == bad.errors


async def test_a_refused_connection_is_retried(
    clock: ManualClock, collector: EventCollector, background: Run, unused_tcp_port: int
) -> None:
    producer = NewsProducer(config_of(feed(f"http://127.0.0.1:{unused_tcp_port}/feed")), clock)
    background(producer.run(collector))
    await until(lambda: producer.feeds[0].errors >= 3)
    assert producer.health.state == "waiting"
    assert str(unused_tcp_port) in producer.health.last_error


async def test_a_recovered_feed_is_read_again(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    url = feed_server.at("/feed", web.Response(status=503), web.Response(status=500), rss(item(1)))
    producer = NewsProducer(config_of(feed(url)), clock)
    background(producer.run(collector))
    await until(lambda: emitted(collector) == [1])
    assert producer.feeds[0].errors == 2
    assert producer.feeds[0].status == 200


async def test_a_feed_with_status_410_is_disabled(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    gone = feed_server.at("/gone", web.Response(status=410))
    there = feed_server.at("/there", rss(item(1)))
    producer = NewsProducer(config_of(feed(gone, name="gone"), feed(there, name="there")), clock)
    background(producer.run(collector))
    await until(lambda: feed_server.asked("/there") >= 5)
    assert feed_server.asked("/gone") == 1
    assert producer.feeds[0].state == "disabled"


async def test_a_retry_after_of_an_hour_is_respected(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    busy = feed_server.at("/busy", web.Response(status=429, headers={"Retry-After": "3600"}))
    there = feed_server.at("/there", rss(item(1)))
    producer = NewsProducer(config_of(feed(busy, name="busy"), feed(there, name="there")), clock)
    background(producer.run(collector))
    await until(lambda: feed_server.asked("/there") >= 5)
    assert feed_server.asked("/busy") == 1
    assert producer.feeds[0].next_poll_at == T0 + HOUR_MS


async def test_a_permanent_redirect_is_reported(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    new = feed_server.at("/new", rss(item(1)))
    old = feed_server.at("/old", web.Response(status=301, headers={"Location": "/new"}))
    producer = NewsProducer(config_of(feed(old)), clock)
    background(producer.run(collector))
    await until(lambda: emitted(collector) == [1])
    assert producer.feeds[0].moved_to == new


async def test_an_exception_of_the_consumer_ends_the_run(feed_server: FeedServer, clock: ManualClock) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("the journal is full")

    producer = NewsProducer(config_of(feed(feed_server.at("/feed", rss(item(1))))), clock)
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(producer.run(broken), 10)
    assert raised.group_contains(RuntimeError, match="the journal is full")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([{"url": "file:///etc/passwd"}], "begins with http"),
        ([{"url": "https://"}], "begins with http"),
        ([{"url": "https://a.test/1"}, {"url": "https://a.test/1", "name": "b"}], "two feeds have the url"),
        ([{"url": "https://a.test/1"}, {"url": "https://a.test/2"}], "two feeds have the name 'a.test'"),
    ],
)
def test_an_invalid_list_of_feeds_is_refused(feeds: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NewsConfig.model_validate({"feeds": feeds})
