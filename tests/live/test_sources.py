"""Headlines after a restart: the run's journal decides which of them pass, since feeds keep no state."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.core.events import Event, News
from agent.live.app import make_agent
from agent.live.event_filter import EventFilter, OpenBarSampler
from agent.live.resume import ResumePoint
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.support.feed_server import FeedServer, item, rss
from tests.support.live import SENTIMENT, journal, living, load_words, of, settings, until

AT = 1_790_424_000_000


class NoBars:
    """Replaces `OpenBarSampler`: no bar is open."""

    def release(self) -> tuple[()]:
        return ()


def news(
    id: str, title: str, *, url: str = "https://news.test/1", feed: str = "wire", summary: str = ""
) -> News:
    return News(id, AT, AT, title, summary, url=url, feed=feed)


async def restarted(journal: Sequence[News], *listed: News) -> list[Event]:
    """Return the items of `listed` that pass in a run whose journal holds `journal`."""
    memory = ResumePoint()
    for headline in journal:
        memory.update(headline)
    return await passed(memory, *listed)


async def passed(memory: ResumePoint, *listed: News) -> list[Event]:
    writable = asyncio.Event()
    writable.set()
    events: list[Event] = []
    gate = EventFilter(cast("OpenBarSampler", NoBars()), memory, events.append, writable)
    for headline in listed:
        await gate(headline)
    return events


A = news("id-a", "SEC sues exchange")
OTHER = "SEC sues exchange, shares fall 30%"


@pytest.mark.parametrize(
    "again",
    [
        A,
        news("id-a", "SEC sues exchange", url="https://news.test/moved"),
        news("id-a", "SEC sues  Exchange."),
        news("id-other", "SEC sues exchange"),  # the feed changed its id
    ],
)
async def test_a_journalled_headline_does_not_pass_again(again: News) -> None:
    assert await restarted([A], again) == []


@pytest.mark.parametrize(
    "other",
    [
        news("id-b", OTHER),
        news("id-b", "SEC sues exchange", url="https://news.test/2"),
        news("id-b", "SEC sues exchange", feed="another wire"),
    ],
)
async def test_a_headline_that_is_not_journalled_passes_unchanged(other: News) -> None:
    assert await restarted([A], other) == [other]


async def test_another_title_under_a_known_id_passes_once_with_a_new_id() -> None:
    (update,) = cast("list[News]", await restarted([A], news("id-a", OTHER)))
    assert update.title == OTHER
    assert update.id != "id-a"
    assert await restarted([A, update], news("id-a", OTHER), A) == []
    (third,) = cast("list[News]", await restarted([A, update], news("id-a", "SEC settles")))
    assert len({A.id, update.id, third.id}) == 3


async def test_an_untitled_entry_is_identified_by_its_id_alone() -> None:
    first = news("id-c", "1 comment", summary="1 comment")
    assert await restarted([first], news("id-c", "2 comments", summary="2 comments")) == []


async def test_a_snapshot_of_an_earlier_version_compares_ids_alone() -> None:
    memory = ResumePoint()
    cast("Any", memory).headlines["id-a"] = None
    assert await passed(memory, A, news("id-a", OTHER)) == []


async def test_each_headline_is_journalled_once_over_a_restart(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    """The only id of one feed is the site's address; another feed changes its entry's id at each poll."""
    feeds = FeedServer()
    application = web.Application()
    application.router.add_get("/{path:.*}", feeds.handle)
    site = "https://news.test/"

    def numbered(*numbers: int) -> list[bytes]:
        return [rss(item(0, title=f"News {number}", guid=site, link=site)) for number in numbers]

    def renamed(*ids: int) -> list[bytes]:
        return [rss(item(0, title="Bank fails", guid=f"u#{id}")) for id in ids]

    async with TestServer(application) as server:
        feeds.url = str(server.make_url("")).rstrip("/")
        paths = ("/numbered", "/renamed")
        news = {"feeds": [{"url": feeds.url + path, "name": path, "interval": "20ms"} for path in paths]}
        config = settings(sandbox.rest_url, tmp_path, news=news, strategy=SENTIMENT)
        for life, numbers in enumerate(((0, 1), (1, 2, 3))):
            feeds.at("/numbered", *numbered(*numbers))
            feeds.at("/renamed", *renamed(*(3 * life + poll for poll in range(3))))
            before = {path: feeds.asked(path) for path in paths}
            async with living(make_agent(config, database, load_model=load_words, clock=sandbox.clock)):
                await until(
                    lambda: all(feeds.asked(path) >= before[path] + 5 for path in paths)  # noqa: B023
                )
    headlines = cast("list[News]", of(News, journal(database)))
    assert sorted(headline.title for headline in headlines) == [
        "Bank fails",
        "News 0",
        "News 1",
        "News 2",
        "News 3",
    ]
    assert len({headline.id for headline in headlines}) == 5
