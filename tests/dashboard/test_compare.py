"""Two recorded runs compared in the dashboard: the list links to the page of `tapewire diff`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.store.database import Database, open_database
from agent.store.queries import list_runs
from tests.conftest import ROOT
from tests.dashboard.browser_page import DESKTOP, PHONE, BrowserPage
from tests.dashboard.dashboard_harness import client, served
from tests.support.command_line import run_command

BTC = ROOT / "tests/sample_data/BTCUSDT-1m.csv"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A store with three runs of `sma_cross`, the newest with `fast` = 30, then 25 and 20."""
    monkeypatch.chdir(tmp_path)
    for fast in (20, 25, 30):
        args = ["--klines", f"BTCUSDT={BTC}", "--strategy", "sma_cross", "--set", f"fast={fast}"]
        assert run_command(["backtest", *args]).exit_code == 0
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        yield database


async def test_the_page_compares_two_runs_and_loads_nothing(store: Database) -> None:
    newest, other, _ = (run.id for run in list_runs(store))
    async with served(store) as page, client(page.login_url()) as http:
        for _ in range(2):  # the second one is kept in memory
            async with http.get(f"/runs/{newest}/compare/{other}") as response:
                text = await response.text()
                assert response.status == 200
                assert response.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")
            assert "strategy.params.fast" in text
            assert "First differing decision" in text
        async with http.get(f"/runs/{newest}/compare/{newest}") as response:
            assert "Identical: the same settings" in await response.text()
        async with http.get("/runs/<b>/compare/none") as response:
            text = await response.text()
            assert response.status == 404
        assert "These runs can't be compared" in text
        assert "<b>" not in text


async def test_it_needs_a_login(store: Database) -> None:
    newest = list_runs(store)[0].id
    async with (
        served(store) as page,
        client(page.url) as http,
        http.get(f"/runs/{newest}/compare/{newest}", allow_redirects=False) as response,
    ):
        assert response.status in (303, 401)


TICK = "document.querySelectorAll('#run-table input')[arguments[0]].click()"
LINK = "const link = document.querySelector('#compare'); return [link.hidden, link.getAttribute('href')]"


@pytest.mark.slow
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_two_ticked_runs_are_linked(page: BrowserPage, store: Database, screen: dict[str, Any]) -> None:
    first, second, third = (run.id for run in list_runs(store))
    async with served(store) as served_page:
        await page.open(served_page.login_url(), screen=screen)
        await page.until("document.querySelector('#run-table td a')?.textContent")
        assert (await page.run(LINK))[0]
        await page.run(TICK, 0)
        assert (await page.run(LINK))[0]
        await page.run(TICK, 1)
        hidden, href = await page.run(LINK)
        assert not hidden
        assert href.endswith(f"runs/{first}/compare/{second}")
        await page.run(TICK, 2)  # the first one makes room
        assert (await page.run(LINK))[1].endswith(f"runs/{second}/compare/{third}")
        ticked = "return [...document.querySelectorAll('#run-table input')].map(box => box.checked)"
        assert await page.run(ticked) == [False, True, True]
        await page.run(TICK, 1)
        assert (await page.run(LINK))[0]
        assert await page.run("return document.documentElement.scrollWidth") <= screen["width"]
        assert await page.console_errors() == []
