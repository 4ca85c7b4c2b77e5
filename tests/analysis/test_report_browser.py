"""The page in a real browser: it draws its charts without console messages or requests and fits a phone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from msgspec import structs

from agent.analysis.report.html import write_report
from agent.analysis.report.report_loader import load_report_data
from agent.analysis.trade_groups import analyse_trades
from agent.core.events import HOUR_MS
from tests.analysis.stored import HOSTILE, record_run
from tests.support.browser import Browser, chromium

TOO_WIDE = """
    return [...document.querySelectorAll('body *')]
        .filter(e => !e.closest('.scroll, pre, svg, .canvas'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.outerHTML.slice(0, 80))
"""
INK = """
    // the pixels of a chart's main canvas that are painted, by the id of the chart
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return [...document.querySelectorAll('.chart')].map(chart => {
        const canvas = chart.querySelector('canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [chart.id, pixels.filter((value, at) => at % 4 === 3 && value > 0).length];
    })
"""
_HOVER = """
    const chart = timeCharts.get('price-BTCUSDT');
    chart.focus(roundTrips[0]);
    await new Promise(requestAnimationFrame);
    return chart.details.textContent
"""
_COLOURS = """
    const colours = () => timeCharts.get('equity').chart.panes()[0].getSeries()
        .map(series => series.options().color);
    // at most until the driver's timeout
    while (!colours().includes(arguments[0])) await new Promise(requestAnimationFrame);
    return colours()
"""
_LEVELS = """
    const chart = timeCharts.get('price-ETHUSDT'), seen = [];
    const frame = () => new Promise(requestAnimationFrame);
    const settle = async () => { for (let at = 0; at < 5; at += 1) await frame(); };
    for (let at = 0; at < 14; at += 1) {
        const { from, to } = chart.chart.timeScale().getVisibleLogicalRange();
        const visible = chart.bars.slice(Math.max(Math.ceil(from), 0), Math.floor(to) + 1);
        const shown = chart.series.priceScale().getVisibleRange();
        seen.push([chart.levels[chart.level].length, visible.length,
            shown.from <= Math.min(...visible.map(bar => bar.low)),
            shown.to >= Math.max(...visible.map(bar => bar.high)), shown.to - shown.from]);
        chart.zoom(0.6);
        await settle();
    }
    chart.fit();
    await settle();
    return [chart.levels.map(level => level.length), seen, chart.levels[chart.level].length]
"""
_CSV = """
    const blobs = [], make = URL.createObjectURL;
    URL.createObjectURL = (blob) => { blobs.push(blob); return make(blob); };
    HTMLAnchorElement.prototype.click = function () { this.dataset.clicked = 'yes'; };
    [...document.querySelectorAll('#round-trips .tools button')].at(-1).click();
    return await blobs[0].text()
"""
_SORTED = """
    const head = name => [...document.querySelectorAll('#round-trips th')]
        .find(cell => cell.textContent.startsWith(name));
    head(arguments[0]).querySelector('button').click();
    const column = [...head(arguments[0]).parentElement.children].indexOf(head(arguments[0]));
    return [head(arguments[0]).getAttribute('aria-sort'),
        [...document.querySelectorAll('#round-trips tbody tr')].map(row => row.cells[column].textContent)]
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 90 days with a headline that contains HTML."""
    folder = tmp_path_factory.mktemp("report")
    data = load_report_data(record_run(folder, hours=24 * 90, headlines=40))
    trade = data.trades[0]
    more = [
        structs.replace(
            trade,
            pnl=trade.pnl * at,
            reason=f"=HYPERLINK({at})",
            entry_ts=trade.entry_ts + at * HOUR_MS + 13 * (at + 60),
            exit_ts=trade.entry_ts + (at + 3) * HOUR_MS + 29 * (at + 60) + 1,
            entry_order="",
        )
        for at in range(-60, 60)
    ]
    trades = [trade, *more]
    data = structs.replace(data, trades=trades, analysis=analyse_trades(trades))
    return write_report(data, folder / "report.html")[0]


@pytest.fixture(scope="module")
def desktop(page: Path) -> Iterator[Browser]:
    """The page in a desktop browser."""
    with chromium(1280, 900) as browser:
        browser.open(page)
        yield browser


@pytest.mark.slow
def test_it_draws_without_console_messages_or_requests(desktop: Browser, page: Path) -> None:
    assert desktop.console_messages() == []
    assert [url for url in desktop.requests() if not url.startswith(("data:", "blob:"))] == [
        page.resolve().as_uri()
    ]
    drawn = dict(desktop.run(INK))
    assert drawn.keys() == {"equity", "price-BTCUSDT", "price-ETHUSDT", "rolling"}
    assert all(ink > 1_000 for ink in drawn.values())


def test_candles_get_shorter_as_one_zooms_in_and_the_price_axis_follows(desktop: Browser) -> None:
    lengths, seen, last = desktop.run(_LEVELS)
    assert lengths == [3_600, 4 * 3_600]
    assert seen[0][0] == lengths[-1] == last, "the whole run is drawn in the longest candles"
    assert seen[-1][0] == 3_600
    assert [one[0] for one in seen] == sorted((one[0] for one in seen), reverse=True)
    assert all(below and above for _, _, below, above, _ in seen), "all visible candles are in the range"
    assert seen[-1][4] < seen[0][4] / 4


def test_the_text_of_a_trade_shows_its_headline_as_text(desktop: Browser) -> None:
    text = desktop.run(_HOVER)
    assert "Bought 1 at 110.00" in text
    assert HOSTILE in text, "as text, not executed"
    assert desktop.console_messages() == []


def test_round_trips_are_sorted_filtered_and_paged(desktop: Browser) -> None:
    def shown(column: str) -> tuple[str, list[float]]:
        order, texts = desktop.run(_SORTED, column)
        return order, [float(text.replace(",", "").replace("−", "-").replace("+", "")) for text in texts]

    order, values = shown("Net result")
    assert (order, len(values)) == ("descending", 50)
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(7.75 * 59)
    order, values = shown("Net result")
    assert (order, values) == ("ascending", sorted(values))
    assert values[0] == pytest.approx(-7.75 * 60)
    found = desktop.run("""
        const input = document.querySelector('#round-trips input');
        input.value = 'hyperlink(-60)';
        input.dispatchEvent(new Event('input'));
        const text = document.querySelector('#round-trips output').textContent;
        input.value = '';
        input.dispatchEvent(new Event('input'));
        return [text, document.querySelector('#round-trips output').textContent]
    """)
    assert found == ["1–1 of 1", "1–50 of 121"]


def test_the_csv_file_has_all_round_trips_and_no_formulas(desktop: Browser) -> None:
    rows = list(csv.DictReader(StringIO(desktop.run(_CSV))))
    assert len(rows) == 121
    by_profit = {float(row["profit"]): row for row in rows}
    assert by_profit[7.75 * -60]["entry_reason"] == "'=HYPERLINK(-60)"
    first = next(row for row in rows if row["headline"])
    assert (first["headline"], first["publisher"]) == (HOSTILE, "<b>Wire</b>")
    assert (first["entry"], first["duration_s"]) == ("2024-01-01T10:00:00.000Z", "36000")
    assert float(first["return_pct"]) == pytest.approx(100 * 7.75 / 110, abs=1e-4)
    for row in rows:
        begin, end = (datetime.fromisoformat(row[name]) for name in ("entry", "exit"))
        assert (end - begin) / timedelta(milliseconds=1) == round(float(row["duration_s"]) * 1_000)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "@")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_colours_of_the_page(desktop: Browser, scheme: str) -> None:
    desktop.devtools(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    accent = {"light": "#1f5f8b", "dark": "#6db3e2"}[scheme]
    assert accent in desktop.run(_COLOURS, accent)


def test_it_prints(desktop: Browser) -> None:
    printed = desktop.devtools("Page.printToPDF", printBackground=True)
    assert printed["data"].startswith("JVBERi0")  # "%PDF-"
    assert desktop.console_messages() == []


@pytest.mark.slow
def test_it_fits_on_a_phone(page: Path) -> None:
    with chromium(390, 844, phone=True) as browser:
        browser.open(page)
        assert browser.run("return innerWidth") == 390
        assert browser.run("return document.documentElement.scrollWidth") == 390
        assert browser.run(TOO_WIDE) == []
        assert all(ink > 300 for _, ink in browser.run(INK))
        assert browser.console_messages() == []
