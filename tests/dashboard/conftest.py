"""Fixtures: a store, a quiet log, and a headless browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from agent.store.database import open_database
from tests.dashboard.browser_page import BrowserPage
from tests.dashboard.replays import RecordedRuns, record_backtest, record_venue_run
from tests.live.conftest import database, quiet_log, sandbox

__all__ = ["database", "quiet_log", "sandbox"]

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Debian's Chromium, one instance per module; skips if it isn't installed."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver, log_output=os.devnull))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: Chrome) -> BrowserPage:
    return BrowserPage(browser)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedRuns]:
    """A store with a backtest on headlines and a run at a venue, which tests only read."""
    folder = tmp_path_factory.mktemp("runs")
    with closing(open_database(f"sqlite:///{folder / 'store.db'}")) as store:
        yield RecordedRuns(store, record_backtest(store), record_venue_run(store))
