"""Worker processes parse documents; they are killed on timeout and end with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.core.errors import DataError
from agent.live.news.feed_parser import FeedDocument, parse_feed
from agent.live.news.parser_pool import ParseKilled, ParserPool
from tests.conftest import ROOT
from tests.support.feed_server import endless, item, rss
from tests.support.producers import until

MEMORY = 256_000_000
LONG = 600_000  # ms


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    async with ParserPool(LONG, MEMORY) as running:
        yield running


def lives(pid: int) -> bool:
    """Return whether a process runs; a zombie doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_worker_returns_the_same_document_and_is_reused(pool: ParserPool) -> None:
    body = rss(
        item(1, published=1_790_424_000_000, description="For <i>good</i> \u20bf"),
        item(2, link="/two"),
        item(3, title=""),
    )
    assert await pool.parse(body, url="https://news.test/feed") == parse_feed(
        body, url="https://news.test/feed"
    )
    (worker,) = pool.processes
    for number in range(5):
        assert (await pool.parse(rss(item(number)))).entries[0].title == f"Miners sell {number} coins"
    assert pool.processes == [worker]


async def test_a_document_is_refused_with_the_parsers_reason(pool: ParserPool) -> None:
    with pytest.raises(DataError, match="neither RSS nor Atom"):
        await pool.parse(b"<html></html>")
    with pytest.raises(DataError, match="nested more than 200 deep"):
        await pool.parse(b'<rss version="2.0">' + b"<x>" * 600_000)
    assert len(pool.processes) == 1, "a refusal costs no worker"


async def test_a_parse_that_takes_too_long_is_killed() -> None:
    async with ParserPool(300, MEMORY) as pool:
        with pytest.raises(ParseKilled, match="parse took longer than 300ms, killed"):
            await pool.parse(endless())
        assert pool.processes == []
        document = await _patiently(pool, rss(item(1)))
        assert [entry.title for entry in document.entries] == ["Miners sell 1 coins"]


async def _patiently(pool: ParserPool, body: bytes) -> FeedDocument:
    """Retry: on a busy machine even a small document may exceed the short limit of a test."""
    while True:
        with suppress(ParseKilled):
            return await pool.parse(body)


@pytest.mark.slow
async def test_slow_documents_leave_a_worker_to_the_others() -> None:
    """Six such documents once occupied all threads; here one is parsed, and the others are killed."""
    async with ParserPool(LONG, MEMORY, quick=0.3) as pool:
        hostile = [asyncio.create_task(pool.parse(endless())) for _ in range(6)]
        await until(lambda: bool(pool.processes))
        good = await _patiently(pool, rss(item(1)))
        assert [entry.title for entry in good.entries] == ["Miners sell 1 coins"]
        killed = [task for task in hostile if task.done()]
        assert len(killed) == 5
        assert all("while others waited" in str(task.exception()) for task in killed)
        assert len(pool.processes) <= 2
        for task in hostile:
            task.cancel()
        await asyncio.wait(hostile)
        assert len(pool.processes) <= 1, "a cancelled document is not parsed"


async def test_a_suspect_document_waits_for_the_slow_lane_and_delays_no_other() -> None:
    async with ParserPool(LONG, MEMORY, quick=0.3) as pool:
        suspects = [asyncio.create_task(pool.parse(endless(), suspect=True)) for _ in range(3)]
        for number in range(5):
            assert (await _patiently(pool, rss(item(number)))).entries
        assert not any(task.done() for task in suspects)
        assert len(pool.processes) == 2
        for task in suspects:
            task.cancel()
        await asyncio.wait(suspects)


@pytest.mark.slow
async def test_the_memory_of_a_worker_is_limited() -> None:
    async with ParserPool(LONG, 16_000_000) as pool:
        with pytest.raises(DataError, match=r"more memory than is allowed|crashed the parser"):
            await pool.parse(rss(*(item(number) for number in range(12_000))))
        assert (await pool.parse(rss(item(1)))).entries


async def test_a_dead_worker_is_replaced(pool: ParserPool) -> None:
    await pool.parse(rss(item(1)))
    (first,) = pool.processes
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ParseKilled, match="crashed"):
        await pool.parse(rss(item(1)))
    assert (await pool.parse(rss(item(2)))).entries
    assert pool.processes != [first]


async def test_a_worker_has_no_secret_in_its_environment(
    pool: ParserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "canary-of-the-environment")
    await pool.parse(rss(item(1)))
    (worker,) = pool.processes
    assert b"canary" not in Path(f"/proc/{worker}/environ").read_bytes()
    assert b"canary" not in Path(f"/proc/{worker}/cmdline").read_bytes()


async def test_closing_the_pool_ends_all_workers() -> None:
    async with ParserPool(LONG, MEMORY) as pool:
        work = asyncio.create_task(pool.parse(endless()))
        await until(lambda: bool(pool.processes))
        (worker,) = pool.processes
        work.cancel()
        await asyncio.wait({work})
    assert not lives(worker)


PARENT = """
import asyncio, sys
from agent.live.news.parser_pool import ParserPool
from tests.support.feed_server import endless, item, rss

async def main():
    async with ParserPool(600_000, 256_000_000) as pool:
        await pool.parse(rss(item(1)))
        print(*pool.processes, flush=True)
        if sys.argv[1] == "busy":
            await pool.parse(endless())
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_a_worker_ends_if_its_parent_is_killed(state: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with parent:
        assert parent.stdout is not None
        worker = int(await asyncio.to_thread(parent.stdout.readline))
        assert lives(worker)
        if state == "busy":
            await until(lambda: cpu_ticks(worker) > 60)
        parent.kill()
    await until(lambda: not lives(worker))


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11])
