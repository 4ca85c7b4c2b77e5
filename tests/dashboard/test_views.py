"""The views of a run in a real browser: trades, performance, log, configuration; keyboard, phone."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from selenium.webdriver.common.keys import Keys

from agent.api.round_trips import RoundTrips
from agent.api.run_messages import TradeEntry
from agent.cli.dashboard_commands import serve_dashboard
from agent.config.live import LogConfig
from agent.core.errors import UsageError
from agent.core.strategy import Fill, Kline, Market, Strategy, StrategyParams
from agent.live import log
from agent.live.app import make_agent
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.system.clock import iso, parse_time
from tests.dashboard.browser_page import DESKTOP, PHONE, BrowserPage
from tests.dashboard.dashboard_harness import ANY_PORT, agent_with_page, served
from tests.dashboard.replays import KLINES, SLOW, RecordedRuns
from tests.live.test_sleeves import engine_of, sleeved
from tests.support.axe import serious_findings
from tests.support.live import Command, handled, journal, living, load_words, of, options, settings, until

VIEWS = ("now", "trades", "performance", "log", "configuration")
READY = {
    "now": "document.querySelector('#when').dataset.shown",
    "trades": "document.querySelector('#trades-summary').textContent",
    "performance": "document.querySelector('#performance-tiles dd')",
    "log": "document.querySelector('#log-note').textContent",
    "configuration": "document.querySelector('#configuration-versions td')",
}
PAGES = {
    "runs": "document.querySelector('#run-table td')",
    "research": "!document.querySelector('#research').hidden",
    "agents": "!document.querySelector('#agents').hidden",
}
SHOWN = "[...document.querySelectorAll('main [role=tabpanel]')].filter(one => !one.hidden).map(one => one.id)"
LINES = "document.querySelector('#log-lines').textContent"
CELLS = """return [...document.querySelectorAll(arguments[0] + " tbody tr")].map(
  (row) => [...row.cells].map((cell) => cell.textContent))"""


def url_of(served_page: Any, run: str, view: str) -> str:
    """The login link of a run's view."""
    link: str = served_page.login_url()
    base, _, query = link.partition("?")
    return f"{base}runs/{run}?{query}#{view}"


def shown(value: Decimal | float, digits: int = 2) -> str:
    """A signed number as the page writes it."""
    return f"{value:+,.{digits}f}".replace("-", "−")


async def column(page: BrowserPage, name: str) -> list[str]:
    rows: list[str] = await page.run(
        "return [...document.querySelectorAll(`#trades-table td[data-title='${arguments[0]}']`)]"
        ".map((cell) => cell.textContent)",
        name,
    )
    return rows


async def settled(page: BrowserPage) -> None:
    await page.until("!document.querySelector('#trades-table').hasAttribute('aria-busy')")


def trips_of(runs: RecordedRuns) -> list[TradeEntry]:
    return RoundTrips(runs.database).of(runs.backtest)


@pytest.mark.slow
async def test_the_trades_of_a_run_are_sorted_filtered_and_downloaded(
    page: BrowserPage, runs: RecordedRuns
) -> None:
    entries = trips_of(runs)
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "trades"))
        await page.until(READY["trades"], within=SLOW)
        assert await page.run(f"return {SHOWN}") == ["view-trades"]
        summary = await page.text("#trades-summary")
        assert summary.startswith(f"{len(entries)} round trips, {len(entries)} closed")
        assert shown(sum(entry.trade.pnl for entry in entries)) in summary

        await page.click("#trades-table [data-sort=pnl]")
        await page.until("document.querySelector('#trades-table [aria-sort=descending] [data-sort=pnl]')")
        profits = sorted((entry.trade.pnl for entry in entries), reverse=True)
        assert [text.split(" ")[-1] for text in await column(page, "Result")] == [shown(p) for p in profits]
        await page.click("#trades-table [data-sort=pnl]")
        await page.until("document.querySelector('#trades-table [aria-sort=ascending] [data-sort=pnl]')")
        worst = min(entries, key=lambda entry: entry.trade.pnl)
        first = (await page.run(CELLS, "#trades-table"))[0]
        assert first[8] == f"{shown(worst.return_on_notional * 100)}\u00a0%"
        assert worst.headlines[0].title in first[14]

        await page.run(
            "const side = document.querySelector('#trades-side'); side.value = 'short';"
            "side.dispatchEvent(new Event('change'))"
        )
        shorts = [entry for entry in entries if entry.trade.side.value == "SELL"]
        await page.until(
            r"/^\d+ of \d+ round trips/.test(document.querySelector('#trades-summary').textContent)"
        )
        assert await column(page, "Side") == ["▼ short"] * len(shorts)
        link = await page.run("return document.querySelector('#trades-csv').href")
        assert "side=short" in link
        assert "sort=pnl" in link
        text = await page.run("return fetch(arguments[0]).then((answer) => answer.text())", link)
        assert text.count("\r\n") == 1 + len(shorts)

        await page.type("#trades-search", "no such words")
        await page.until("document.querySelector('#trades-table .empty')")
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_many_trades_have_pages(page: BrowserPage, runs: RecordedRuns) -> None:
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "now"))
        await page.until(READY["now"], within=SLOW)
        # a page of five rows instead of a hundred
        await page.run(
            "const real = window.fetch; window.fetch = (url, ...rest) =>"
            " real(String(url).replace('limit=100', 'limit=5').replace('offset=100', 'offset=5'), ...rest);"
        )
        await page.click("#tab-trades")
        await page.until(READY["trades"], within=SLOW)
        assert len(await column(page, "Symbol")) == 5
        assert await page.run("return document.querySelector('#trades-back').disabled")
        assert not await page.run("return document.querySelector('#trades-on').disabled")
        entries = sorted((entry.trade.entry_ts for entry in trips_of(runs)), reverse=True)
        first, before = await column(page, "Time in"), await page.text("#trades-page")
        await page.click("#trades-on")
        await page.until("document.querySelector('#trades-page').textContent !== arguments[0]", before)
        second = await column(page, "Time in")
        assert [*first, *second] == [f"{iso(ts)[:10]} {iso(ts)[11:16]}" for ts in entries[:10]]
        assert not await page.run("return document.querySelector('#trades-back').disabled")


async def test_the_performance_view_has_the_figures_of_the_run(page: BrowserPage, runs: RecordedRuns) -> None:
    entries = trips_of(runs)
    metrics = runs.backtest.metrics
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "performance"))
        await page.until(READY["performance"], within=SLOW)
        tiles = await page.text("#performance-tiles")
        assert f"{shown(metrics['performance']['total_return'] * 100)}\u00a0%" in tiles
        assert shown(metrics["trades"]["worst"]) in tiles
        titles = await page.run(
            "return [...document.querySelectorAll('#performance-groups h2')].map((one) => one.textContent)"
        )
        assert len(titles) == 7  # without sleeves
        by_symbol = await page.run(CELLS, "#performance-groups section:first-child")
        for symbol, count, won, result, *_ in by_symbol:
            own = [entry.trade for entry in entries if entry.trade.symbol == symbol]
            assert count == str(len(own))
            assert won == f"{100 * sum(trade.pnl > 0 for trade in own) / len(own):.0f}\u00a0%"
            assert result.split(" ")[-1] == shown(sum(trade.pnl for trade in own))
        counted = [int(row[1]) for row in await page.run(CELLS, "#performance-returns")]
        assert sum(counted) == len(entries)
        assert (
            await page.run("return document.querySelectorAll('#performance-drawdowns tbody tr').length") > 0
        )
        assert await page.console_errors() == []


async def test_the_configuration_is_searched(page: BrowserPage, runs: RecordedRuns) -> None:
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "configuration"))
        await page.until(READY["configuration"], within=SLOW)
        changed = await page.run(CELLS, "#configuration-changed")
        assert ["instruments.BTCUSDT.tick_size", "0.10", "none"] in changed
        given = await page.run(CELLS, "#configuration-given")
        assert ["strategy.params.position_size", "0.5"] in given
        hashes = [row[-1] for row in await page.run(CELLS, "#configuration-inputs")]
        assert hashes == [one.sha256 for one in runs.backtest.inputs]
        await page.type("#configuration-search", "max_draw")
        await page.until("document.querySelector('#configuration-defaults').open")
        assert await page.run(CELLS, "#configuration-default") == [
            ["risk.max_drawdown", "0.25"],
            ["risk.on_max_drawdown", "halt"],
        ]
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_the_log_of_a_recorded_run_is_what_happened_in_it(
    page: BrowserPage, runs: RecordedRuns
) -> None:
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.venue.id, "log"))
        await page.until(READY["log"], within=SLOW)
        assert await page.run("return document.querySelector('#log-source-field').hidden")
        rejected = await page.run("return document.querySelectorAll('#log-lines .level-warning').length")
        assert rejected > 0
        await page.type("#log-search", "rejected")
        await page.until(
            "document.querySelectorAll('#log-lines li').length === arguments[0]"
            " && !document.querySelector('#log-lines .empty')",
            rejected,
        )
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_the_log_of_the_running_agent_grows_on_the_page(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    async with (
        Sandbox(options(speed=100.0)) as sandbox,
        agent_with_page(sandbox, database, tmp_path) as (daemon, server),
    ):
        log.configure(LogConfig(format="json", level="info"), (tmp_path / "log").open("w"))
        logger = structlog.get_logger("test")
        await until(lambda: handled(daemon) > 0)
        logger.warning("a line <b>of the test</b>", api_key="hunter22", feed="<img src=x onerror=alert(1)>")
        await page.open(server.login_url() + "#log")
        await page.until(
            "document.querySelector('#log-lines').textContent.includes('a line <b>of the test</b>')"
        )
        line = await page.text("#log-lines .level-warning")
        assert "api_key=***" in line
        assert "hunter22" not in line
        logger.error("another one")
        await page.until(
            "document.querySelector('#log-lines .level-error')?.textContent.includes('another one')"
        )
        await page.run(
            "const level = document.querySelector('#log-level'); level.value = 'error';"
            "level.dispatchEvent(new Event('change'))"
        )
        await page.until("document.querySelectorAll('#log-lines .level-warning').length === 0")
        await page.run(
            "const source = document.querySelector('#log-source'); source.value = 'run';"
            "source.dispatchEvent(new Event('change'));"
            "const level = document.querySelector('#log-level'); level.value = '';"
            "level.dispatchEvent(new Event('change'))"
        )
        await page.until(f"{LINES}.includes('warm-up')")
        await page.click("#tab-trades")
        await page.until("/round trips/.test(document.querySelector('#trades-summary').textContent)")
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_views_are_reached_by_keyboard_and_by_their_address(
    page: BrowserPage, runs: RecordedRuns
) -> None:
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "trades"))
        await page.until(READY["trades"], within=SLOW)
        await page.until(READY["now"], within=SLOW)  # the address then has the moment, too
        await page.run("document.querySelector('#tab-trades').focus()")
        for key, expected in [
            (Keys.ARROW_RIGHT, "performance"),
            (Keys.END, "configuration"),
            (Keys.ARROW_RIGHT, "now"),
            (Keys.ARROW_LEFT, "configuration"),
            (Keys.HOME, "now"),
            (Keys.ARROW_RIGHT, "trades"),
        ]:
            await page.do(lambda chrome, key=key: chrome.switch_to.active_element.send_keys(key))
            await page.until(f"{SHOWN}.join() === 'view-' + arguments[0]", expected)
            focused = await page.run(
                "const tab = document.activeElement;"
                "return [tab.id, tab.getAttribute('aria-selected'), location.hash,"
                " getComputedStyle(tab).outlineStyle]"
            )
            assert focused == [f"tab-{expected}", "true", f"#{expected}", "solid"]
        stops = await page.run("return document.querySelectorAll(\"[role=tab][href][tabindex='0']\").length")
        assert stops == 1
        await page.do(lambda chrome: chrome.refresh())
        await page.until(READY["trades"], within=SLOW)
        assert await page.run(f"return {SHOWN}") == ["view-trades"]
        assert "at=" in await page.run("return location.search")


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
async def test_views_are_accessible_and_fit_every_screen(
    page: BrowserPage, runs: RecordedRuns, view: str
) -> None:
    async with served(runs.database) as server:
        for screen, dark in ((DESKTOP, False), (PHONE, True)):
            await page.open(url_of(server, runs.backtest.id, view), screen=screen, dark=dark)
            await page.until(READY[view], within=SLOW)
            await page.until(READY["now"], within=SLOW)
            overflow = await page.run("return document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0
            background = await page.run("return getComputedStyle(document.documentElement).backgroundColor")
            assert background == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
            # boxes that scroll are named once they overflow
            await page.until(
                "[...document.querySelectorAll('.scroll, .activity, .headlines')].every((box) =>"
                " !box.clientWidth || box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"
            )
            assert await serious_findings(page) == []
            assert await page.console_errors() == []


@pytest.mark.slow
@pytest.mark.parametrize(("place", "ready"), PAGES.items())
async def test_pages_beside_the_board_are_accessible(
    page: BrowserPage, runs: RecordedRuns, place: str, ready: str
) -> None:
    async with served(runs.database) as server:
        for screen, dark in ((DESKTOP, False), (PHONE, True)):
            base, _, query = server.login_url().partition("?")
            await page.open(f"{base}{place}?{query}", screen=screen, dark=dark)
            await page.until(ready, within=SLOW)
            assert await page.run("return document.documentElement.scrollWidth - innerWidth") <= 0
            assert await serious_findings(page) == []
            # This server runs no jobs, which the page states
            assert [one for one in await page.console_errors() if "api/v1/jobs" not in one] == []


@pytest.mark.slow
async def test_one_position_is_closed_and_the_others_stay(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    strategy = {"name": "buy_and_hold", "params": {"weight": 0.3}}
    async with (
        Sandbox(options(speed=100.0)) as sandbox,
        agent_with_page(sandbox, database, tmp_path, strategy=strategy) as (daemon, server),
    ):
        positions = daemon.pipeline.engine.portfolio.positions
        await until(lambda: all(one.qty for one in positions.values()))
        await page.open(server.login_url())
        await page.until("document.querySelectorAll('[data-close]').length === 2")
        await page.click("[data-close=ETHUSDT]")
        assert await page.text("#confirm-title") == "Close ETHUSDT?"
        listed = await page.text("#confirm-list")
        assert "ETHUSDT" in listed
        assert "BTCUSDT" not in listed
        await page.click("#confirm-yes")
        await until(lambda: positions["ETHUSDT"].qty == 0)
        assert positions["BTCUSDT"].qty > 0
        await page.until("document.querySelectorAll('[data-close]').length === 1")
        assert await page.text("#closers") == "Close one position: BTCUSDT"
        commands = of(Command, journal(database, daemon.run_id))
        (command,) = [one for one in commands if one.action == "flatten"]
        assert (command.args, command.by) == ({"symbol": "ETHUSDT"}, "dashboard 127.0.0.1")
        with pytest.raises(UsageError, match="DOGEUSDT is not traded"):
            await daemon.command("flatten", {"symbol": "DOGEUSDT"}, "test")
        assert await page.console_errors() == []


class OneCoinParams(StrategyParams):
    sign: int = 1


class OneCoin(Strategy[OneCoinParams]):
    """Holds one coin of ETH, long or short, and nothing again once it has been closed."""

    def __init__(self, params: OneCoinParams | None = None) -> None:
        super().__init__(params)
        self.filled = False

    def on_kline(self, kline: Kline, market: Market) -> None:
        if kline.symbol == "ETHUSDT" and not self.filled:
            self.target(kline.symbol, qty=self.params.sign)

    def on_fill(self, fill: Fill, market: Market) -> None:
        self.filled = True


@pytest.mark.slow
async def test_positions_of_sleeves_that_add_up_to_zero_are_listed_and_closed(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    sleeves = [
        {
            "name": name,
            "share": 0.4,
            "strategy": {"name": "tests.dashboard.test_views:OneCoin", "params": {"sign": sign}},
        }
        for name, sign in (("long", 1), ("short", -1))
    ]
    async with Sandbox(options(speed=100.0)) as sandbox:
        config = sleeved(settings(sandbox.rest_url, tmp_path, dashboard=ANY_PORT), *sleeves)
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with serve_dashboard(config, database, daemon) as server, living(daemon):
            assert server is not None
            engine = engine_of(daemon)
            own = [one.engine.portfolio.positions["ETHUSDT"] for one in engine.sleeves.values()]
            await until(lambda: [float(one.qty) for one in own] == [1.0, -1.0])
            assert engine.portfolio.positions["ETHUSDT"].qty == 0
            await page.open(server.login_url())
            await page.until("document.querySelectorAll('[data-close]').length === 1")
            await page.click("[data-close=ETHUSDT]")
            assert "(+1 of long, −1 of short)" in await page.text("#confirm-list")
            await page.click("#confirm-yes")
            await until(lambda: all(one.qty == 0 for one in own))
            await page.until("document.querySelector('#closers').hidden")
            assert await page.console_errors() == []


@pytest.mark.slow
async def test_the_chart_shows_longer_bars_until_the_moment(page: BrowserPage, runs: RecordedRuns) -> None:
    with KLINES[0][0].open(newline="") as file:
        read = list(csv.reader(file))[1:]
    rows = [(parse_time(row[0], "test"), *map(float, row[1:])) for row in read]
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "now"))
        await page.until(READY["now"], within=SLOW)
        choices = "[...document.querySelector('#chart-interval').options].map((one) => one.text).join()"
        assert await page.run(f"return {choices}") == "1m,5m,15m,1h,4h,1d"
        before = await page.text("#legend")
        await page.run(
            "const select = document.querySelector('#chart-interval'); select.value = '4h';"
            "select.dispatchEvent(new Event('change'))"
        )
        await page.until("document.querySelector('#legend').textContent !== arguments[0]", before)
        last = [row for row in rows if row[0] >= rows[-1][0] // 14_400_000 * 14_400_000]
        _, opened, high, low, close, volume = map(list, zip(*last, strict=True))
        by_hand = (opened[0], max(high), min(low), close[-1])
        legend = await page.until(
            "(document.querySelector('#legend').textContent.includes('20:00:00') &&"
            " document.querySelector('#legend').textContent)"
        )
        for name, value in zip("OHLC", by_hand, strict=True):
            assert f"{name} {value:,.2f}" in legend
        assert f"V {sum(volume):,.0f}" in legend
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_other_symbols_are_drawn_beside_and_selected_there(
    page: BrowserPage, runs: RecordedRuns
) -> None:
    closes = {}
    for path, _ in KLINES:
        with path.open(newline="") as file:
            closes[path.name.partition("-")[0]] = float(list(csv.reader(file))[-1][4])
    async with served(runs.database) as server:
        await page.open(url_of(server, runs.backtest.id, "now"))
        await page.until(READY["now"], within=SLOW)
        await page.click("#chart-beside")
        beside = "document.querySelector('#beside').textContent"
        assert await page.until(f"{beside} === 'ETHUSDT {closes['ETHUSDT']:,.2f}' && {beside}")
        drawn = "[...document.querySelectorAll('#beside canvas')].some((one) => one.width > 100)"
        await page.until(drawn)
        await page.click("#beside button")
        await page.until(f"{beside} === 'BTCUSDT {closes['BTCUSDT']:,.2f}'")
        assert await page.text("#chart-title") == "ETHUSDT"
        await page.click("#chart-beside")
        await page.until("document.querySelector('#beside').hidden")
        assert await page.console_errors() == []
