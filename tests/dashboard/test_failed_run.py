"""A run that failed says so and why; times of more than one day have their dates."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from typer.testing import CliRunner

from agent.cli.main import build
from agent.dashboard.archive import _row
from agent.store.database import Database, open_database
from agent.store.queries import list_runs
from agent.store.runs import Run, RunKind, RunStatus
from tests.dashboard.test_browser import DESK, PHONE, Page
from tests.dashboard.world import Puppet, bar, client, headline, served
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
    """Record a run of four days of hourly bars whose strategy raises after so many."""
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
    CliRunner().invoke(build(), ["backtest", *arguments])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """With three runs: one that failed after 60 bars, one at its first bar, and a complete one."""
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
            async with http.get(f"/api/runs/{run}") as answer:
                said: dict[str, Any] = await answer.json()
            if said.get("ready", True):
                return said
            await asyncio.sleep(0.02)


async def test_a_failed_run_says_why_and_ends_where_it_failed(store: Database) -> None:
    late, whole = run_of(store, "late_boom"), run_of(store, "no_boom")
    assert (late.status, whole.status) == (RunStatus.FAILED, RunStatus.COMPLETE)
    async with served(store) as page, client(page.login_url()) as http:
        said = await opened(http, late.id)
        assert "ValueError: boom" in said["failure"]
        assert said["failure"].startswith("The run failed: ")
        assert said["ends"] == BEGIN + FAILS_AFTER * HOUR_MS  # the close of the bar on which it failed
        said = await opened(http, whole.id)
        assert (said["failure"], said["ends"]) == ("", BEGIN + 96 * HOUR_MS)


async def test_where_there_is_no_report_a_page_says_so_and_why(store: Database) -> None:
    early, whole = run_of(store, "early_boom"), run_of(store, "no_boom")
    async with served(store) as page, client(page.login_url()) as http:
        async with http.get(f"/runs/{early.id}/report") as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (404, "text/html")
        assert "ValueError: boom" in text
        assert "There is no report of this run" in text
        assert early.id in text
        async with http.get("/runs/20200101-000000-<b>/report") as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (404, "text/html")
        assert "&lt;b&gt;" in text
        assert "<b>" not in text
        async with http.get(f"/runs/{whole.id}/report") as answer:
            assert answer.status == 200
        for run in list_runs(store, 10):
            async with http.get(f"/runs/{run.id}/report") as answer:
                assert answer.status in (200, 404), run


@pytest.fixture
def page(browser: Chrome) -> Page:
    return Page(browser)


SHOWN = "document.querySelector('#when')?.dataset.shown"
OVERFLOW = (
    "const box = document.querySelector(arguments[0]).parentElement; return box.scrollWidth - box.clientWidth"
)
TIMES = "return [...document.querySelectorAll(`${arguments[0]} time`)].map(one => one.textContent)"


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
async def test_the_page_of_a_failed_run_says_so_and_its_lists_have_dates(
    page: Page, store: Database, screen: dict[str, Any]
) -> None:
    late = run_of(store, "late_boom")
    async with served(store) as served_page:
        await page.open(served_page.login_url(), screen=screen)
        await page.until("document.querySelector('#run-table td a')?.textContent")
        table = await page.text("#run-table")
        assert "ValueError: boom" in table
        assert "Begins, market time" in table
        assert "2025-01-01 00:00" in table  # of the complete one
        assert str(late.started_at) not in table
        if screen is PHONE:  # nothing is hidden behind a scroll to the side
            assert await page.run(OVERFLOW, "#run-table") <= 0
        began = await page.run(
            "return [...document.querySelectorAll('#run-table tbody tr')].map(row => row.cells[2].textContent)"
        )
        assert sorted(began) == ["2025-01-01 00:00", "–", "–"]  # never the machine's time
        await page.open(f"{served_page.url}runs/{late.id}?at=2025-01-02T06:00:00Z", screen=screen)
        await page.until(SHOWN)
        assert await page.text("#when") == "2025-01-02 06:00:00"
        await page.open(f"{served_page.url}runs/{late.id}", screen=screen)
        await page.until(SHOWN)
        banner = await page.text("#banner")
        assert "The run failed: " in banner
        assert "ValueError: boom" in banner
        assert "2025-01-03 12:00:00" in banner
        assert await page.text("#link") == "recorded, failed"
        for rows in ("#trades", "#acts"):
            times = await page.run(TIMES, rows)
            assert len({time[:10] for time in times}) > 1, rows
            assert all(time.startswith("2025-01-0") for time in times), rows
        assert await page.run("return document.documentElement.scrollWidth") <= screen["width"]
        if screen is PHONE:
            assert await page.run(OVERFLOW, "#trades") <= 0
        assert await page.complaints() == []


@pytest.mark.parametrize("days", [0, 1])
async def test_headlines_of_one_day_have_times_and_of_more_days_dates(
    page: Page, database: Database, days: int
) -> None:
    puppet = Puppet()
    puppet.hear(
        *(bar(number) for number in range(3)),
        headline(1, "Bitcoin today"),
        headline(2 + 86_400 * days, "Bitcoin again"),
    )
    async with served(database, puppet) as served_page:
        await page.open(served_page.login_url())
        await page.until("document.querySelectorAll('#headlines [data-id]').length === 2")
        times = await page.run(TIMES, "#headlines")
        assert times == (["2025-03-04 14:25:02", "2025-03-03 14:25:01"] if days else ["14:25:02", "14:25:01"])
        assert await page.complaints() == []


@pytest.mark.parametrize(("mode", "total"), [("paper", 0.25), ("testnet", None)])
def test_a_run_at_a_venue_has_no_return_on_the_configured_capital(mode: str, total: float | None) -> None:
    """Its account may hold another sum: what was there when it began is no profit."""
    config = {"execution": {"mode": mode}, "account": {"initial_capital": "8000"}}
    row = _row(Run("run", RunKind.LIVE, 0, "sma_cross", config=config, final_equity=Decimal(10_000)))
    assert row.total_return == total
