"""`tapewire record news` against feeds on loopback, and `tapewire export news`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from agent.core.errors import StoreError
from agent.core.events import MINUTE_MS
from agent.data.news import NewsFile
from agent.data.news_archive import NewsArchive, read_archive
from agent.live.news_recorder import NewsRecorder
from agent.system.clock import WallClock
from tests.conftest import ROOT
from tests.live.news.test_news_producer import config_of, feed
from tests.live.test_commands import MAIN
from tests.support.feed_server import FeedServer, item, rss
from tests.support.live import PATIENCE
from tests.support.producers import T0, ManualClock, until


async def test_headlines_are_recorded_until_stopped_and_once_over_restarts(
    feed_server: FeedServer, clock: ManualClock, tmp_path: Path
) -> None:
    one, two = rss(item(1, published=T0 - 5)), rss(item(2, published=T0 - 4), item(1, published=T0 - 5))
    config = config_of(feed(feed_server.at("/feed", one, two)))
    for expected in (2, 0):
        with NewsArchive(tmp_path) as archive:
            recorder, stop = NewsRecorder(config, archive, clock), asyncio.Event()
            running = asyncio.create_task(recorder.run(stop))
            asked = feed_server.asked("/feed")
            await until(lambda asked=asked: feed_server.asked("/feed") > asked + 3)
            stop.set()
            await running
            assert recorder.recorded == expected
    found = [record for record, _ in read_archive(tmp_path)]
    assert [(record.title, record.feed) for record in found] == [
        ("Miners sell 1 coins", "wire"),
        ("Miners sell 2 coins", "wire"),
    ]


async def test_an_archive_that_cannot_be_written_ends_the_recording(
    feed_server: FeedServer, clock: ManualClock, tmp_path: Path
) -> None:
    config = config_of(feed(feed_server.at("/feed", rss(item(1)))))
    with NewsArchive(tmp_path) as archive:
        (tmp_path / "news-2026-09-26.jsonl").mkdir()
        with pytest.raises(StoreError, match="can't be written"):
            await NewsRecorder(config, archive, clock).run(asyncio.Event())


@pytest.mark.slow
async def test_the_commands_record_export_and_replay(feed_server: FeedServer, tmp_path: Path) -> None:
    published = WallClock().now() - MINUTE_MS
    url = feed_server.at("/feed", rss(item(1, published=published), item(2, published=published)))
    bad = feed_server.at("/bad", b"no feed")
    (tmp_path / "config.toml").write_text(
        "[news]\nspread = 0\n"
        + "".join(
            f'[[news.feeds]]\nname = "{name}"\nurl = "{address}"\ninterval = "1s"\n'
            for name, address in (("good", url), ("bad", bad))
        )
    )

    async def tapewire(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            MAIN,
            *arguments,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    recorder = await tapewire("record", "news", "--json")
    assert recorder.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while b"feed failed" not in await recorder.stderr.readline():
            pass
    await until(lambda: any((tmp_path / "var/news").glob("*.jsonl")))
    recorder.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(recorder.communicate(), 30)
    assert recorder.returncode == 0, err.decode()
    result = json.loads(out)
    assert result["recorded"] == 2
    assert [bool(one["last_error"]) for one in result["feeds"]] == [False, True]

    export = await tapewire("export", "news", "news.parquet")
    out, err = await export.communicate()
    assert export.returncode == 0, err.decode()
    assert out.decode().strip() == "news.parquet: 2 headlines"
    read = {news.title for news in NewsFile(tmp_path / "news.parquet")}
    assert read == {"Miners sell 1 coins", "Miners sell 2 coins"}
