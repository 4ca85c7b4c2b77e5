"""Entries are identified by id or link, and title; a long document is limited to its newest entries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.live import FeedConfig, NewsConfig
from agent.core.events import MINUTE_MS
from agent.live.news.feed_parser import FeedEntry, newest_first, parse_feed
from agent.live.news.news_producer import NewsProducer
from agent.live.news.seen_entries import SeenEntries
from agent.system.backoff import BackoffConfig
from tests.support.feed_server import FeedServer, item, rss
from tests.support.producers import T0, EventCollector, ManualClock, until

Run = Callable[[Any], asyncio.Task[None]]

A = {"title": "SEC sues exchange", "guid": "g1", "link": "https://news.test/1"}
B = A | {"title": "SEC sues exchange, shares fall 30%"}
C = {"title": "Other", "guid": "g2", "link": "https://news.test/2"}
SITE = {"guid": "https://news.test/", "link": "https://news.test/"}
UNTITLED = {"title": "", "guid": "g1", "description": "1 comment"}
LINKED = {"title": "Fed holds", "guid": "", "link": "https://news.test/3"}
BARE = {"title": "Fed holds", "guid": "", "link": ""}


def listing(*entries: dict[str, str]) -> bytes:
    """Return a feed, newest entry first, one minute apart."""
    return rss(
        *(item(0, published=T0 - (place + 1) * MINUTE_MS, **entry) for place, entry in enumerate(entries))
    )


# the listings of successive polls, and the emitted titles in order
POLLS = {
    "an update beside the entry": ([[A, C], [B, A, C], [B, C]], ["Other", A["title"], B["title"]]),
    "an update in its place": ([[A], [B], [B]], [A["title"], B["title"]]),
    "back and forth": ([[A], [B], [A], [B]], [A["title"], B["title"]]),
    "one id for all": ([[SITE | {"title": f"News {n}"}] for n in range(3)], ["News 0", "News 1", "News 2"]),
    "one id for all, several listed": (
        [[SITE | {"title": f"News {n}"} for n in (m + 1, m)] for m in range(3)],
        ["News 0", "News 1", "News 2", "News 3"],
    ),
    "an id that changes": ([[A | {"guid": f"u#{n}"}] for n in range(3)], [A["title"]]),
    "a link that changes": ([[A | {"link": f"https://news.test/?t={n}"}] for n in range(3)], [A["title"]]),
    "a link that counts readers": (
        [
            [LINKED | {"link": f"{scheme}://news.test/3?id=7{more}"}]
            for scheme, more in (
                ("https", ""),
                ("http", ""),
                ("https", "&utm_source=rss"),
                ("https", "&fbclid=x"),
            )
        ],
        ["Fed holds"],
    ),
    "a link whose parameter says which": (
        [[LINKED | {"link": f"https://news.test/?p={n}", "title": f"Fed {n}"}] for n in (1, 2)],
        ["Fed 1", "Fed 2"],
    ),
    "an id that changes, and an update": (
        [[A], [A | {"guid": "u2"}], [B | {"guid": "u3"}]],
        [A["title"], B["title"]],
    ),
    "trifles": (
        [[A], [A | {"title": "\u201cSEC  sues\u201d Exchange."}], [A | {"title": '"sec sues" exchange'}]],
        [A["title"], "\u201cSEC sues\u201d Exchange."],
    ),
    "a sign is no trifle": (
        [[A | {"title": "Ether -5%"}], [A | {"title": "Ether +5%"}]],
        ["Ether -5%", "Ether +5%"],
    ),
    "a summary that changes": ([[A | {"description": "1"}], [A | {"description": "2"}]], [A["title"]]),
    "an untitled entry": ([[UNTITLED], [UNTITLED | {"description": "2 comments"}]], ["1 comment"]),
    "known by its link": ([[LINKED], [LINKED | {"title": "Fed cuts"}], [LINKED]], ["Fed holds", "Fed cuts"]),
    "known by its title": ([[BARE], [BARE | {"title": "Fed cuts"}, BARE], [BARE]], ["Fed holds", "Fed cuts"]),
    "twice in one listing": ([[A, A, C], [C, A]], ["Other", A["title"]]),
    "one story under two ids in one listing": ([[A | {"guid": "u2"}, A]], [A["title"]]),
}


@pytest.mark.parametrize("name", POLLS)
async def test_each_headline_is_emitted_once(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run, name: str
) -> None:
    polls, expected = POLLS[name]
    url = feed_server.at("/feed", *(listing(*entries) for entries in polls))
    feed = FeedConfig(url=url, name="wire", interval=5)
    quick = BackoffConfig(first=1, ceiling=4, jitter=0)
    background(NewsProducer(NewsConfig(feeds=(feed,), spread=0, jitter=0, retry=quick), clock).run(collector))
    await until(lambda: feed_server.asked("/feed") >= len(polls) + 2)
    assert [news.title for news in collector.news] == expected
    assert len({news.id for news in collector.news}) == len(expected)


async def run_polls(
    feed_server: FeedServer,
    clock: ManualClock,
    collector: EventCollector,
    background: Run,
    seen: dict[str, SeenEntries],
    *polls: bytes,
) -> None:
    """Run a new producer until it has read these documents."""
    url = feed_server.at("/feed", *polls)
    before = feed_server.asked("/feed")
    feed = FeedConfig(url=url, name="wire", interval=5)
    task = background(
        NewsProducer(NewsConfig(feeds=(feed,), spread=0, jitter=0), clock, seen=seen).run(collector)
    )
    await until(lambda: feed_server.asked("/feed") >= before + len(polls) + 2)
    task.cancel()
    await asyncio.wait([task])


async def test_emitted_entries_are_known_after_a_restart(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    seen: dict[str, SeenEntries] = {}
    await run_polls(feed_server, clock, collector, background, seen, listing(A, C), listing(B, A, C))
    await run_polls(
        feed_server, clock, collector, background, seen, listing(B, C), listing(A | {"guid": "u2"}, C)
    )
    assert [news.title for news in collector.news] == ["Other", A["title"], B["title"]]


def test_the_number_of_seen_entries_is_bounded() -> None:
    seen = SeenEntries()
    for number in range(50):
        (entry,) = parse_feed(rss(item(number))).entries
        assert not seen.is_known(entry)
        seen.add(entry)
        seen.trim(10)
    assert (len(seen.keys), len(seen.names)) == (10, 20)
    known = [seen.is_known(parse_feed(rss(item(number))).entries[0]) for number in range(50)]
    assert known == [False] * 40 + [True] * 10


# -- long documents ------------------------------------------------------------------------------------------

FAR = 10**15


def entries(*dates: int | None) -> list[FeedEntry]:
    """Return entries whose keys are their positions."""
    return [FeedEntry(str(place), str(place), "", "", "", date, "") for place, date in enumerate(dates)]


@pytest.mark.parametrize(
    ("dates", "limit", "kept"),
    [
        ([5, 4, 3, 2, 1], 3, "012"),  # newest first
        ([1, 2, 3, 4, 5], 3, "432"),  # oldest first, reversed
        ([1, 2, 3, 4, 5], 9, "43210"),
        ([None, None, None, None], 2, "01"),  # without dates, the first entries are the newest
        ([9, None, 7, None, 5, 4], 4, "0123"),
        ([1, None, 3, None, 5, 6], 4, "5432"),  # 3 counts as 5, its next newer neighbour
        ([1, 9, 8, 7, 6], 3, "123"),  # an old entry at the top
        ([5, 5, 5, 5], 2, "01"),
        ([FAR + 1, 1, 2, 3, 4], 3, "432"),  # a date in the far future is ignored: 0 counts as 1
        ([], 3, ""),
    ],
)
def test_the_newest_entries_of_a_document_are_kept(dates: list[int | None], limit: int, kept: str) -> None:
    assert "".join(entry.key for entry in newest_first(entries(*dates), limit, FAR)) == kept


@given(st.lists(st.integers(0, 1_000), unique=True), st.integers(1, 20), st.randoms())
def test_the_newest_entries_are_kept_in_any_order(dates: list[int], limit: int, rng: random.Random) -> None:
    rng.shuffle(dates)
    kept = [entry.published for entry in newest_first(entries(*dates), limit, FAR)]
    assert sorted(kept, key=str) == sorted(sorted(dates, reverse=True)[:limit], key=str)


async def test_the_newest_entries_of_an_ascending_feed_are_emitted(
    feed_server: FeedServer, clock: ManualClock, collector: EventCollector, background: Run
) -> None:
    """700 items, one second apart, the newest last: the 500 newest are emitted, aged 0 to 499 s."""
    body = rss(*(item(age, published=T0 - 1_000 * age) for age in range(699, -1, -1)))
    feed = FeedConfig(url=feed_server.at("/feed", body), name="wire", interval=5)
    background(NewsProducer(NewsConfig(feeds=(feed,), spread=0, jitter=0), clock).run(collector))
    await until(lambda: feed_server.asked("/feed") >= 3)
    assert [(T0 - news.ts) // 1_000 for news in collector.news] == list(range(499, -1, -1))
