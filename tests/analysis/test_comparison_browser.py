"""The page of a comparison in a real browser: no requests, no console messages, both schemes, phone width."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.analysis.comparison.comparison_page import render_comparison
from agent.analysis.report.page_parts import write_page
from agent.replay.run_comparison import compare_runs
from agent.store.queries import find_run
from tests.analysis.stored import record_run
from tests.analysis.test_report_browser import INK, TOO_WIDE
from tests.support.browser import chromium

_LINE = """
    return timeCharts.get('overlay').chart.panes()[0].getSeries().map(series => series.options().color)
"""
_ACCENT = "return getComputedStyle(document.documentElement).getPropertyValue('--accent').trim()"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trade on a headline that contains HTML, against itself."""
    folder = tmp_path_factory.mktemp("comparison")
    database = record_run(folder, hours=24 * 30)
    run = find_run(database)
    found = compare_runs(database, run, run)
    return write_page(render_comparison(found), folder / "diff.html")


@pytest.mark.slow
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_without_requests_and_fits(page: Path, scheme: str, phone: bool) -> None:
    with chromium(390 if phone else 1280, 844, phone=phone) as browser:
        browser.devtools(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        browser.open(page)
        assert browser.console_messages() == []
        requests = [url for url in browser.requests() if not url.startswith(("data:", "blob:"))]
        assert requests == [page.resolve().as_uri()]
        assert browser.run(TOO_WIDE) == []
        assert browser.run(_ACCENT) in browser.run(_LINE)
        assert dict(browser.run(INK))["overlay"] > 300
