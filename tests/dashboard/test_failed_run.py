"""Failed runs: the list, the page and the report show the error; lists that span several days show dates."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.analysis.run_rows import run_row
from agent.store.database import Database, open_database
from agent.store.queries import list_runs
from agent.store.runs import Run, RunKind, RunStatus
from tests.dashboard.browser_page import DESKTOP, PHONE, BrowserPage
from tests.dashboard.dashboard_harness import FakeAgent, bar, client, headline, served
from tests.support.command_line import run_command
from tests.support.live import PATIENCE

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BEGIN = 1_735_689_600_000  # 2025-01-01
FAILS_AFTER = 60  # bars, of 96
STRATEGY = """
from agent.core.strategy import Strategy

class Boom(Strategy):
    bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        if self.bars == {after}:
            raise ValueError("boom")
        if self.bars % 12 == 0:
            self.target(kline.symbol, weight=0.3 if self.bars % 24 else 0.0)
"""


def backtest(folder: Path, name: str, after: int) -> None:
    """Record a run of four days of hourly bars.

    Its strategy raises an error at bar number `after`.
    """
    (folder / f"{name}.py").write_text(STRATEGY.replace("{after}", str(after)))
    rows = [
        f"{BEGIN + hour * HOUR_MS},{100 + hour % 7},110,90,{100 + (hour + 1) % 7},1000" for hour in range(96)
    ]
    (folder / "BTCUSDT-1h.csv").write_text("timestamp,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    (folder / "c.toml").write_text(f'[store]\nurl = "sqlite:///{folder / "store.db"}"\n')
    arguments = [
        "--klines",
        str(folder / "BTCUSDT-1h.csv"),
        "--strategy",
        f"{name}:Boom",
        "--config",
        str(folder / "c.toml"),
    ]
    run_command(["backtest", *arguments])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A store with three runs: one that failed at bar 60, one that failed at its first bar, and a complete
    one.
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, after in (("late_boom", FAILS_AFTER), ("early_boom", 1), ("no_boom", 1_000)):
        backtest(tmp_path, name, after)
        sys.modules.pop(name, None)
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        yield database


def run_of(database: Database, name: str) -> Any:
    (run,) = (run for run in list_runs(database, 10) if run.strategy.startswith(name))
    return run


async def opened(http: Any, run: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"/api/runs/{run}") as response:
                body: dict[str, Any] = await response.json()
            if body.get("ready", True):
                return body
            await asyncio.sleep(0.02)


async def test_a_failed_run_shows_its_error_and_ends_at_the_bar_on_which_it_failed(store: Database) -> None:
    late, whole = run_of(store, "late_boom"), run_of(store, "no_boom")
    assert (late.status, whole.status) == (RunStatus.FAILED, RunStatus.COMPLETE)
    async with served(store) as page, client(page.login_url()) as http:
        body = await opened(http, late.id)
        assert "ValueError: boom" in body["failure"]
        assert body["failure"].startswith("The run failed: ")
        assert body["ends"] == BEGIN + FAILS_AFTER * HOUR_MS  # the close of the bar on which it failed
        body = await opened(http, whole.id)
        assert (body["failure"], body["ends"]) == ("", BEGIN + 96 * HOUR_MS)


async def test_a_page_explains_why_a_run_has_no_report(store: Database) -> None:
    early, whole = run_of(store, "early_boom"), run_of(store, "no_boom")
    async with served(store) as page, client(page.login_url()) as http:
        async with http.get(f"/runs/{early.id}/report") as response:
            text = await response.text()
            assert (response.status, response.content_type) == (404, "text/html")
        assert "ValueError: boom" in text
        assert "This run has no report" in text
        assert early.id in text
        async with http.get("/runs/20200101-000000-<b>/report") as response:
            text = await response.text()
            assert (response.status, response.content_type) == (404, "text/html")
        assert "&lt;b&gt;" in text
        assert "<b>" not in text
        async with http.get(f"/runs/{whole.id}/report") as response:
            assert response.status == 200
        for run in list_runs(store, 10):
            async with http.get(f"/runs/{run.id}/report") as response:
                assert response.status in (200, 404), run


SHOWN = "document.querySelector('#when')?.dataset.shown"
OVERFLOW = (
    "const box = document.querySelector(arguments[0]).parentElement; return box.scrollWidth - box.clientWidth"
)
TIMES = "return [...document.querySelectorAll(`${arguments[0]} time`)].map(one => one.textContent)"


@pytest.mark.slow
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_the_page_of_a_failed_run_shows_the_error_and_dates(
    page: BrowserPage, store: Database, screen: dict[str, Any]
) -> None:
    late = run_of(store, "late_boom")
    async with served(store) as served_page:
        await page.open(served_page.login_url(), screen=screen)
        await page.until("document.querySelector('#run-table td a')?.textContent")
        table = await page.text("#run-table")
        assert "ValueError: boom" in table
        assert "Start, market time" in table
        assert "2025-01-01 00:00" in table  # the complete run
        assert str(late.started_at) not in table
        if screen is PHONE:  # no horizontal scrolling
            assert await page.run(OVERFLOW, "#run-table") <= 0
        starts = await page.run(
            "return [...document.querySelectorAll('#run-table tbody tr')]"
            ".map(row => row.cells[2].textContent)"
        )
        assert sorted(starts) == ["2025-01-01 00:00", "–", "–"]  # never the wall-clock time
        await page.open(f"{served_page.url}runs/{late.id}?at=2025-01-02T06:00:00Z", screen=screen)
        await page.until(SHOWN)
        assert await page.text("#when") == "2025-01-02 06:00:00"
        await page.open(f"{served_page.url}runs/{late.id}", screen=screen)
        await page.until(SHOWN)
        banner = await page.text("#banner")
        assert "The run failed: " in banner
        assert "ValueError: boom" in banner
        assert "2025-01-03 12:00:00" in banner
        assert await page.text("#connection") == "recorded, failed"
        for rows in ("#fills", "#activity"):
            times = await page.run(TIMES, rows)
            assert len({time[:10] for time in times}) > 1, rows
            assert all(time.startswith("2025-01-0") for time in times), rows
        assert await page.run("return document.documentElement.scrollWidth") <= screen["width"]
        if screen is PHONE:
            assert await page.run(OVERFLOW, "#fills") <= 0
        assert await page.console_errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("days", [0, 1])
async def test_headlines_have_dates_only_if_they_span_several_days(
    page: BrowserPage, database: Database, days: int
) -> None:
    agent = FakeAgent()
    agent.feed(
        *(bar(number) for number in range(3)),
        headline(1, "Bitcoin today"),
        headline(2 + 86_400 * days, "Bitcoin again"),
    )
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url())
        await page.until("document.querySelectorAll('#headlines [data-id]').length === 2")
        times = await page.run(TIMES, "#headlines")
        assert times == (["2025-03-04 14:25:02", "2025-03-03 14:25:01"] if days else ["14:25:02", "14:25:01"])
        assert await page.console_errors() == []


@pytest.mark.parametrize(("mode", "total"), [("paper", 0.25), ("testnet", None)])
def test_a_run_at_a_venue_has_no_return_on_the_configured_capital(mode: str, total: float | None) -> None:
    """The account may have held another amount at the start, so the difference is not a profit."""
    config = {"execution": {"mode": mode}, "account": {"initial_capital": "8000"}}
    row = run_row(Run("run", RunKind.LIVE, 0, "sma_cross", config=config, final_equity=Decimal(10_000)))
    assert row.total_return == total
