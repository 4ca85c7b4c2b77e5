"""The report as the dashboard serves it: in a sandbox without network, its charts and its CSV file work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.stored import record_run
from tests.dashboard.browser_page import BrowserPage
from tests.dashboard.dashboard_harness import served

_INK = """
    return [...document.querySelectorAll('.chart')].filter(chart => {
        const canvas = chart.querySelector('canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.some((value, at) => at % 4 === 3 && value > 0);
    }).map(chart => chart.id)
"""
_DOWNLOADS = "[...document.querySelectorAll('#round-trips .tools button')].at(-1).click()"


@pytest.mark.slow
async def test_the_reports_charts_and_csv_work_in_the_dashboards_sandbox(
    page: BrowserPage, tmp_path: Path
) -> None:
    database = record_run(tmp_path, hours=24 * 50, headlines=20)
    folder = tmp_path / "downloads"
    folder.mkdir()
    async with served(database) as dashboard:
        await page.do(
            lambda chrome: chrome.execute_cdp_cmd(
                "Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
            )
        )
        await page.open(dashboard.login_url())
        await page.open(f"{dashboard.url}runs/run-1/report")
        assert await page.run("return origin") == "null", "the sandbox has no access to the server"
        await page.until("timeCharts.size === 4")
        await page.run("await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame)")
        assert set(await page.run(_INK)) == {"equity", "price-BTCUSDT", "price-ETHUSDT", "rolling"}
        await page.run(_DOWNLOADS)
        await page.until("document.readyState === 'complete'")
        file = folder / "round-trips.csv"
        for _ in range(100):
            if file.exists() and file.stat().st_size:
                break
            await page.run("return new Promise(resolve => setTimeout(resolve, 50))")
        assert len(file.read_text().splitlines()) == 2
        assert await page.console_errors() == []
