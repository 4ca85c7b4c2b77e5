"""The page that starts jobs, in a real browser with real processes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from agent.config import parse
from agent.jobs.job_queue import JobQueue
from agent.store.database import Database, open_database
from agent.store.queries import find_run
from agent.store.runs import RunStatus
from tests.dashboard.browser_page import DESKTOP, PHONE, BrowserPage
from tests.dashboard.dashboard_harness import served
from tests.support.live import SAMPLES

SLOW = 900.0
"""Seconds for a job: its process has the lowest priority, and the machine may be busy."""

DONE = "document.querySelector(\"[data-job][data-state='done']\") !== null"


def queue_of(folder: Path, **jobs: Any) -> JobQueue:
    return JobQueue(
        parse(
            {
                "jobs": {"data": [str(folder / "data")], "strategies": str(folder)} | jobs,
                "live": {"folder": str(folder / "var")},
                "store": {"url": f"sqlite:///{folder / 'store.db'}"},
            },
            where="test",
        )
    )


async def overflow(page: BrowserPage) -> int:
    """How many pixels the page is wider than the screen."""
    return int(await page.run("return document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.slow
async def test_a_backtest_is_started_and_read_at_phone_width_by_keyboard(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    lines = (SAMPLES / "BTCUSDT-1m.csv").read_text().splitlines(keepends=True)
    (tmp_path / "data/BTCUSDT-1m.csv").write_text("".join([*lines[:500], *lines[510:1501]]))
    async with served(database, jobs=queue_of(tmp_path)) as server:
        await page.open(server.login_url(), screen=PHONE, dark=True)
        await page.do(lambda chrome: chrome.get(f"{server.url}research"))
        await page.until("document.querySelector('#job-klines [value=\"data/BTCUSDT-1m.csv\"]')", within=SLOW)
        assert "1 gaps" in await page.text("#job-klines")
        assert await overflow(page) <= 0
        await page.run("document.querySelector('#job-strategy').value = 'sma_cross'")
        await page.run("document.querySelector('#job-strategy').dispatchEvent(new Event('change'))")
        await page.until("document.querySelector('#job-param-fast') !== null")
        assert "default 20" in await page.text("#job-param-fast-note")
        assert await page.run("return document.querySelector('#job-param-fast').min") == "1"
        await page.type("#job-klines [value='data/BTCUSDT-1m.csv']", Keys.SPACE)
        await page.type("#job-param-fast", "9")
        await page.type("#job-param-slow", "30")
        await page.type("#job-param-slow", Keys.ENTER)
        await page.until("document.querySelector('[data-job]') !== null")
        assert await page.run("return document.querySelector('[data-job] progress').hidden") is False
        await page.until(DONE, within=SLOW)
        run_id = await page.text("[data-run] a")
        with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as store:
            run = find_run(store, run_id)
        assert run.status is RunStatus.COMPLETE
        assert (run.params["fast"], run.params["slow"]) == (9, 30)
        assert run.metrics is not None
        figures = await page.text("[data-job] .figures")
        shown = run.metrics["performance"]["total_return"] * 100
        assert f"{shown:+.2f}".replace("-", "−") in figures
        assert f"Round trips{run.metrics['trades']['trades']}" in figures
        assert await page.run("return document.querySelector('[data-run] a').href") == (
            f"{server.url}runs/{run_id}"
        )
        await page.click("[data-job] summary")
        await page.until("document.querySelector('[data-job] pre').textContent.includes('tapewire backtest')")
        assert await overflow(page) <= 0
        assert await page.run("return document.querySelectorAll('[data-file]').length") >= 4
        unlabelled = await page.run(
            "return [...document.querySelectorAll('#research :is(input, select, button, progress)')]"
            ".filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())"
            ".map(one => one.outerHTML)"
        )
        assert unlabelled == []
        await page.do(lambda chrome: chrome.refresh())
        await page.until(DONE)  # jobs outlive the page
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_a_job_that_fails_says_why_and_one_that_runs_is_cancelled(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    async with served(database, jobs=queue_of(tmp_path)) as server:
        await page.open(server.login_url(), screen=DESKTOP)
        await page.do(lambda chrome: chrome.get(f"{server.url}research"))
        await page.until("document.querySelector('#job-param-threshold, #job-params p')", within=SLOW)
        await page.run("document.querySelector('#job-kind').value = 'import'")
        await page.run("document.querySelector('#job-kind').dispatchEvent(new Event('change'))")
        await page.until(
            "document.querySelector('#job-own-file [value=\"sample/headlines.csv\"]')", within=SLOW
        )
        await page.run("document.querySelector('#job-own-file').value = 'sample/headlines.csv'")
        await page.click("#job-start-button")
        await page.until("document.querySelector('[data-job]') !== null")
        await page.click("[data-job] .job button")
        await page.until("document.querySelector(\"[data-state='cancelled']\") !== null", within=SLOW)
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_a_server_without_jobs_shows_the_reason(page: BrowserPage, database: Database) -> None:
    async with served(database, jobs="jobs are switched off at this server") as server:
        await page.open(server.login_url())
        await page.do(lambda chrome: chrome.get(f"{server.url}research"))
        await page.until("!document.querySelector('#research-off').hidden")
        assert "jobs are switched off at this server (jobs.enabled = true)" in await page.text(
            "#research-off"
        )
        assert await page.run("return document.querySelector('#research-tools').hidden")
