"""Playback shows each moment of a recorded run as the page showed it live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import parse
from agent.core.events import Event
from agent.dashboard.dashboard_state import NO_VERSION, DashboardState
from agent.dashboard.page_rows import run_header
from agent.dashboard.playback import RunPlayback
from agent.dashboard.websocket import encode
from agent.live.app import make_agent
from agent.replay.backtest import backtest
from agent.replay.history import History, Plan
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run
from agent.store.runs import Run
from tests.dashboard.dashboard_harness import ANY_PORT
from tests.support.live import SAMPLES, SENTIMENT, SYMBOLS, handled, living, load_words, settings, until


class PageRecorder(DashboardState):
    """A state that keeps the encoded page after the last event of each moment."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pages: dict[int, bytes] = {}

    def event(self, seq: int, event: Event) -> None:
        if event.available_at > self.now:
            self.pages[self.now] = page_of(self)
        super().event(seq, event)


def page_of(state: DashboardState) -> bytes:
    return encode(state.changes(NO_VERSION, "ETHUSDT"))


@pytest.mark.slow
async def test_a_live_run_shows_each_moment_as_it_was_live(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, dashboard=ANY_PORT, strategy=SENTIMENT)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    recorders: list[PageRecorder] = []

    def observe(run: Run) -> DashboardState:
        recorders.append(PageRecorder(run_header(run, config), config))
        return recorders[0]

    daemon.observe_run(observe)
    async with living(daemon, complete=True):
        await until(lambda: handled(daemon) > 120)
        await daemon.command("kill", {"flatten": "true"}, by="test")
        await until(lambda: not daemon.pipeline.engine.portfolio.open)
    live = recorders[0]
    playback = RunPlayback(database, find_run(database, daemon.pipeline.run.id))
    playback.open()
    try:
        assert playback.ends == live.now
        assert {bookmark.what for bookmark in playback.bookmarks} >= {"fill", "risk", "command"}
        moments = [moment for moment in live.pages if moment >= playback.begins]
        for moment in moments[:: max(len(moments) // 40, 1)]:
            assert encode(playback.page_at(moment, "ETHUSDT")) == live.pages[moment], moment
        assert encode(playback.page_at(playback.ends, "ETHUSDT")) == page_of(live)
    finally:
        playback.close()


def test_a_backtest_can_be_played_back(database: Database) -> None:
    config = parse({"strategy": {"name": "sma_cross"}}, where="test")
    plan = Plan(klines=tuple((SAMPLES / f"{symbol}-1m.csv", symbol) for symbol in SYMBOLS))
    run = backtest(History(plan, config), database).run
    playback = RunPlayback(database, run)
    playback.open(bars=20)
    try:
        length = playback.ends - playback.begins
        accounts = [
            playback.state_at(playback.begins + quarter * length // 4).account() for quarter in range(5)
        ]
        assert [account.fills for account in accounts] == sorted({account.fills for account in accounts})
        end = accounts[-1]
        assert end.event == run.events
        assert end.equity == pytest.approx(float(run.final_equity or 0))
        assert end.fills == len([bookmark for bookmark in playback.bookmarks if bookmark.what == "fill"])
    finally:
        playback.close()
