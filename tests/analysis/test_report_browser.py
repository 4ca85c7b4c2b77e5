"""The page in a real browser: it draws its charts without console messages or requests and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.analysis.report.html import write_report
from agent.analysis.report.report_loader import load_report_data
from tests.analysis.stored import HOSTILE, record_run
from tests.support.browser import Browser, chromium

_TOO_WIDE = """
    return [...document.querySelectorAll('body *')]
        .filter(e => !e.closest('.scroll, pre, svg, .js-plotly-plot'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.outerHTML.slice(0, 80))
"""
_DRAWN = """
    return [...document.querySelectorAll('.chart')]
        .map(e => [e.id, e.querySelectorAll('.trace, .xaxislayer-above').length])
"""
_FIRST_ENTRY = """
    const dot = [...document.querySelectorAll('#price-BTCUSDT .trace')]
        .map(trace => trace.querySelectorAll('.point')).find(points => points.length)[0];
    dot.scrollIntoView({block: 'center'});
    const box = dot.getBoundingClientRect();
    return [box.x + 1, box.y + box.height / 2]  // the exit is a few pixels to the right
"""
_LINE_COLOUR = """
    const traces = () => document.getElementById('equity')._fullData;
    const line = () => traces().find(trace => trace.name === 'Strategy').line.color;
    const accent = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();
    while (line() !== accent) await new Promise(requestAnimationFrame);  // at most until the driver's timeout
    return line()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 90 days with a headline that contains HTML."""
    folder = tmp_path_factory.mktemp("report")
    data = load_report_data(record_run(folder, hours=24 * 90))
    return write_report(data, folder / "report.html")[0]


@pytest.fixture(scope="module")
def desktop(page: Path) -> Iterator[Browser]:
    """The page in a desktop browser."""
    with chromium(1280, 900) as browser:
        browser.open(page)
        yield browser


def test_it_draws_without_console_messages_or_requests(desktop: Browser, page: Path) -> None:
    assert desktop.console_messages() == []
    assert [url for url in desktop.requests() if not url.startswith(("data:", "blob:"))] == [
        page.resolve().as_uri()
    ]
    drawn = dict(desktop.run(_DRAWN))
    assert drawn.keys() >= {"equity", "price-BTCUSDT", "price-ETHUSDT", "rolling"}
    assert all(drawn.values())


def test_the_hover_text_of_a_trade_shows_its_headline_as_text(desktop: Browser) -> None:
    x, y = desktop.run(_FIRST_ENTRY)
    desktop.point_at(x, y)
    text = desktop.run(
        "return [...document.querySelectorAll('#price-BTCUSDT .hovertext')].map(e => e.textContent).join(' ')"
    )
    assert "Bought 1 at 110.00" in text
    assert HOSTILE.split()[0] in text
    assert "<script>alert" in text.replace(" ", "")  # as text, not executed
    assert desktop.console_messages() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_colours_of_the_page(desktop: Browser, scheme: str) -> None:
    desktop.devtools(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    accent = desktop.run(_LINE_COLOUR)
    assert accent == {"light": "#1f5f8b", "dark": "#6db3e2"}[scheme]


def test_it_prints(desktop: Browser) -> None:
    printed = desktop.devtools("Page.printToPDF", printBackground=True)
    assert printed["data"].startswith("JVBERi0")  # "%PDF-"
    assert desktop.console_messages() == []


def test_it_fits_on_a_phone(page: Path) -> None:
    with chromium(390, 844, phone=True) as browser:
        browser.open(page)
        assert browser.run("return innerWidth") == 390
        assert browser.run("return document.documentElement.scrollWidth") == 390
        assert browser.run(_TOO_WIDE) == []
        assert browser.console_messages() == []
