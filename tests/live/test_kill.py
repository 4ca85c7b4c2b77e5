"""kill -9 at any moment: the next start folds the journal and continues as if uninterrupted."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from agent.core.events import HOUR_MS, Command, Kline, News, Sentiment
from agent.live.kill_file import KillSwitch
from agent.live.kill_guard import KillGuard
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.queries import find_run, list_runs
from agent.store.runs import RunStatus
from tests.conftest import ROOT
from tests.support.live import NEWS_BEGIN, PATIENCE, SENTIMENT, SPEED, assert_sound, of, options, settings


def journalled(folder: Path, table: str = "journal") -> int:
    """Number of committed events as another process reads them; 0 if the store does not exist yet."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{folder / 'store.db'}?mode=ro", uri=True)) as connection,
    ):
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    return 0


async def spawn(sandbox: Sandbox, folder: Path) -> Process:
    now, anchor = sandbox.clock.now(), time.time_ns() // 1_000_000
    arguments = (sandbox.rest_url, folder, now, anchor, SPEED / 4)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.agent_child", *map(str, arguments), cwd=ROOT, stderr=PIPE
    )


async def until_journalled(process: Process, folder: Path, events: int, table: str = "journal") -> None:
    async with asyncio.timeout(PATIENCE):
        while journalled(folder, table) < events:
            assert process.returncode is None, (await process.communicate())[1].decode()
            await asyncio.sleep(0.002)


@pytest.mark.slow
async def test_runs_interrupted_by_kill_9_continue_as_one(tmp_path: Path) -> None:
    dice = random.Random(9)
    # The market lasts long enough for four slow starts of a process
    begin = NEWS_BEGIN - 6 * HOUR_MS
    async with Sandbox(options(speed=SPEED / 4, start=begin, news=True)) as sandbox:
        before = 0
        # In the middle of the warm-up, just after it, and anywhere in the live market
        for further in (1, 140, dice.randrange(20, 80)):
            process = await spawn(sandbox, tmp_path)
            await until_journalled(process, tmp_path, before + further)
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
            before = journalled(tmp_path)
        process = await spawn(sandbox, tmp_path)
        await until_journalled(process, tmp_path, before + 60)
        await until_journalled(process, tmp_path, 1, "signals")  # on a busy machine headlines come late
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, log.decode()
    assert any(msgspec.json.decode(line).get("event") == "journal folded" for line in log.splitlines())
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
    with closing(open_database(config.store.url)) as database:
        assert [run.status for run in list_runs(database)] == [RunStatus.INTERRUPTED]
        events = assert_sound(database, "latest", config)
        assert sum(event.action == "warm-up" for event in of(Command, events)) == 4
        assert find_run(database).decisions > 0
        assert len({news.id for news in of(News, events)}) == len(of(News, events))
        scored = [sentiment.news_id for sentiment in of(Sentiment, events)]
        assert len(set(scored)) == len(scored)
        for symbol in config.market.symbols:
            series = sandbox.market.quotes[symbol].series
            bars = [event for event in of(Kline, events) if event.confirm and event.symbol == symbol]
            assert [bar.close for bar in bars] == [
                series.bar(series.index_at(bar.start)).close for bar in bars
            ]


async def test_a_handled_kill_is_not_repeated_if_the_store_fails_after_a_resume(
    tmp_path: Path,
) -> None:
    """The guard is notified after the resume is journalled; a failure in between must not kill again."""
    switch = KillSwitch(tmp_path)
    state = {"killed": False, "unable": False}
    guard = KillGuard(
        switch,
        within=60.0,
        is_killed=lambda: state["killed"],
        is_store_failing=lambda: state["unable"],
        emergency_exit=None,
        done=lambda report: None,
    )
    guard.start()
    handled = guard.request({}, "ann")
    state["killed"] = True
    guard.settle()  # the core has handled it
    state.update(killed=False, unable=True)  # and a resume whose commit has not returned
    newer = guard.request({}, "bob")
    await asyncio.wrap_future(newer.outcome)
    assert not handled.outcome.done()
    assert "by bob" in switch.file.read_text()
    await guard.stop()
