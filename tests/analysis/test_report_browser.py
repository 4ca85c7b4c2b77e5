"""The page in a real browser: it draws, says nothing on the console, asks for nothing, and fits on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.analysis.report.load import load_report_data
from agent.analysis.report.write import write_report
from tests.analysis.stored import HOSTILE, record_run
from tests.support.browser import Browser, chromium

_WIDER = "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, svg, .js-plotly-plot')"
_WIDER += " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
_DRAWN = "return [...document.querySelectorAll('.chart')].map(e => [e.id, e.querySelectorAll('.trace, .xaxislayer-above').length])"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 90 days with a hostile headline."""
    folder = tmp_path_factory.mktemp("report")
    data = load_report_data(record_run(folder, hours=24 * 90))
    return write_report(data, folder / "report.html")[0]


@pytest.fixture(scope="module")
def desk(page: Path) -> Iterator[Browser]:
    """The page on a screen."""
    with chromium(1280, 900) as browser:
        browser.open(page)
        yield browser


def test_it_draws_without_a_word_or_a_request(desk: Browser, page: Path) -> None:
    assert desk.complaints() == []
    assert [url for url in desk.requests() if not url.startswith(("data:", "blob:"))] == [
        page.resolve().as_uri()
    ]
    drawn = dict(desk.run(_DRAWN))
    assert drawn.keys() >= {"equity", "price-BTCUSDT", "price-ETHUSDT", "rolling"}
    assert all(drawn.values())


def test_a_trade_tells_its_headline_on_hover_as_text(desk: Browser) -> None:
    x, y = desk.run(
        "const dot = [...document.querySelectorAll('#price-BTCUSDT .trace')].map(t => t.querySelectorAll('.point')).find("
        "points => points.length)[0]; dot.scrollIntoView({block: 'center'}); const box = dot.getBoundingClientRect();"
        "return [box.x + 1, box.y + box.height / 2]"  # the exit is a few pixels to the right
    )
    desk.point_at(x, y)
    told = desk.run(
        "return [...document.querySelectorAll('#price-BTCUSDT .hovertext')].map(e => e.textContent).join(' ')"
    )
    assert "Bought 1 at 110.00" in told
    assert HOSTILE.split()[0] in told
    assert "<script>alert" in told.replace(" ", "")  # to be read, not run
    assert desk.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_colours_of_the_page(desk: Browser, scheme: str) -> None:
    desk.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    accent = desk.run(
        "const line = () => document.getElementById('equity')._fullData.find(t => t.name === 'Strategy').line.color;"
        "const accent = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();"
        # else the driver gives up on it
        "while (line() !== accent) await new Promise(requestAnimationFrame);"
        "return line()"
    )
    assert accent == {"light": "#1f5f8b", "dark": "#6db3e2"}[scheme]


def test_it_prints(desk: Browser) -> None:
    printed = desk.devtools("Page.printToPDF", printBackground=True)
    assert printed["data"].startswith("JVBERi0")  # "%PDF-"
    assert desk.complaints() == []


def test_it_fits_on_a_phone(page: Path) -> None:
    with chromium(390, 844, phone=True) as browser:
        browser.open(page)
        assert browser.run("return innerWidth") == 390
        assert browser.run("return document.documentElement.scrollWidth") == 390
        assert browser.run(_WIDER) == []
        assert browser.complaints() == []
