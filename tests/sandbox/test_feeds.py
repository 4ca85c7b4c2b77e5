"""The feed server: RSS and Atom items that appear with the market's time; unchanged feeds give 304."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import feedparser
import pytest

from agent.system.clock import iso

FILE_START = 1_735_689_600_000
MINUTE = 60_000


@pytest.fixture
def news(tmp_path: Path) -> Path:
    """Write six headlines at intervals of ten minutes from the start of the kline file."""
    rows = ["published_at,title,summary,publisher,currencies"]
    for number in range(6):
        publisher = ("Harbour Wire", "Tidewater & Sons")[number % 2]
        rows.append(
            f'{iso(FILE_START + number * 10 * MINUTE)},"Number {number} <b>&</b> so on",'
            f'"Summary {number}",{publisher},"BTC,ETH"'
        )
    path = tmp_path / "news.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


async def read(
    client: Any, name: str = "all", kind: str = "rss", **headers: str
) -> tuple[int, Mapping[str, str], Any]:
    async with client.session.get(client.sandbox.feed_url(name, kind), headers=headers) as response:
        return response.status, response.headers, feedparser.parse(await response.read())


@pytest.mark.parametrize("kind", ["rss", "atom"])
async def test_feed_lists_published_headlines_newest_first(play: Any, news: Path, kind: str) -> None:
    async with play(news=news, history_bars=25, speed=1.0) as client:
        status, headers, feed = await read(client, kind=kind)
        assert (status, feed.bozo) == (200, False)
        assert headers["Content-Type"] == f"application/{kind}+xml; charset=utf-8"
        assert [entry.summary for entry in feed.entries] == ["Summary 2", "Summary 1", "Summary 0"]
        newest = feed.entries[0]
        assert newest.title.startswith("Number 2")
        assert {tag.term for tag in newest.tags} == {"BTC", "ETH"}
        published = parsedate_to_datetime(newest.published).timestamp() if kind == "rss" else None
        if published is not None:
            assert published == (FILE_START + 20 * MINUTE + client.sandbox.market.shift) // 1000
        async with client.session.get(newest.link) as article:
            assert "Summary 2" in await article.text()


async def test_each_publisher_has_a_feed_and_other_names_are_404(play: Any, news: Path) -> None:
    async with play(news=news, history_bars=60) as client:
        _, _, feed = await read(client, "tidewater-sons")
        assert [entry.summary for entry in feed.entries] == ["Summary 5", "Summary 3", "Summary 1"]
        status, _, _ = await read(client, "unknown")
        assert status == 404


async def test_item_appears_at_its_publication_time(play: Any, news: Path) -> None:
    async with play(news=news, history_bars=5, speed=3_000.0) as client:
        seen: list[int] = []
        async with asyncio.timeout(15):
            while not seen or seen[-1] < 6:
                _, _, feed = await read(client)
                elapsed = client.sandbox.clock.now() - client.sandbox.market.shift - FILE_START
                seen.append(len(feed.entries))
                assert len(feed.entries) <= elapsed // (10 * MINUTE) + 1  # never early
        assert seen == sorted(seen)
        assert seen[0] == 1


@pytest.mark.parametrize("by", ["ETag", "Last-Modified"])
async def test_unchanged_feed_is_not_modified(play: Any, news: Path, by: str) -> None:
    conditional = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}[by]
    async with play(news=news, history_bars=25, speed=1.0) as client:
        for kind in ("rss", "atom"):
            _, headers, _ = await read(client, kind=kind)
            status, again, feed = await read(client, kind=kind, **{conditional: headers[by]})
            assert (status, again[by], feed.entries) == (304, headers[by], [])
        status, _, _ = await read(
            client, **{"If-None-Match": '"another"', "If-Modified-Since": headers["Last-Modified"]}
        )
        assert status == 200  # the tag takes precedence over the date


async def test_faults_apply_to_feeds(play: Any, news: Path) -> None:
    async with play(news=news, history_bars=60) as client:
        for fault in (
            {"kind": "status", "on": "feeds/all.rss", "code": 429, "count": 1},
            {"kind": "truncate", "on": "feeds/all.rss", "count": 1},
        ):
            async with client.session.post(f"{client.sandbox.rest_url}/_sandbox/faults", json=fault):
                pass
        status, _, _ = await read(client)
        assert status == 429
        _, _, feed = await read(client)
        assert feed.bozo
        _, _, feed = await read(client)
        assert not feed.bozo
