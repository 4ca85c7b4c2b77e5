"""The page in a real browser, beside a running agent."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.analysis.realised_moves import DirectionalCall, MoveTally
from agent.core.events import AssetSentiment, Decision, Direction, Event, Fill, Plot, RiskState, Signal
from agent.core.risk import RESUME_FROM_KILL
from agent.dashboard.page_rows import TITLE_LENGTH
from agent.live.interfaces.status import ModelDriftStatus
from agent.sandbox import Sandbox
from agent.store.database import Database
from models.sentiment.serve.drift import SentimentWindow, reference_shares
from models.sentiment.serve.headline_score import HeadlineScore
from tests.dashboard.browser_page import DESKTOP, PHONE, BrowserPage
from tests.dashboard.dashboard_harness import (
    FakeAgent,
    agent_with_page,
    answered,
    bar,
    headline,
    scored,
    served,
)
from tests.dashboard.reverse_proxy import proxy
from tests.support.live import handled, options, until


class FillTimes:
    """An observer that notes the time of each fill, by the system clock."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def event(self, seq: int, event: Event) -> None:
        pass

    def decision(self, seq: int, decision: Decision) -> None:
        if isinstance(decision, Fill):
            self.times[decision.id] = time.time() * 1000


RECORD_RENDER_TIMES = """
window.rendered = {};
const record = () => {
  for (const row of document.querySelectorAll("#fills [data-id]")) \
window.rendered[row.dataset.id] ??= Date.now();
};
record();
new MutationObserver(record).observe(document.getElementById("fills"), {childList: true, subtree: true});
"""


@pytest.mark.slow
async def test_fills_appear_within_a_second_and_a_kill_lasts_until_a_confirmed_resume(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    async with (
        Sandbox(options(speed=400.0)) as sandbox,
        agent_with_page(sandbox, database, tmp_path) as (daemon, served_page),
    ):
        fills = FillTimes()
        daemon.pipeline.observers.append(fills)
        await until(lambda: handled(daemon) > 0)
        await page.open(served_page.login_url())
        await page.until("document.querySelector('#risk').textContent === 'ACTIVE'")
        await page.run(RECORD_RENDER_TIMES)
        before = len(fills.times)
        await until(lambda: len(fills.times) >= before + 4)
        await page.until(
            "document.querySelector(`[data-id='${arguments[0]}']`) !== null", list(fills.times)[-1]
        )
        rendered = await page.run("return window.rendered")
        lags = [rendered[fill] - fills.times[fill] for fill in list(fills.times)[before:] if fill in rendered]
        assert len(lags) >= 4
        assert statistics.median(lags) < 1_000, lags
        fetched = await page.run(
            "return performance.getEntriesByType('resource')"
            ".map(one => one.name).filter(n => n.includes('/api/'))"
        )
        assert fetched == []  # the page does not poll

        await page.click("#use-strategy")
        assert "Now sma_cross decides" in await page.text("#confirm-text")
        await page.type("#confirm-params", "fast=9 slow=5")
        await page.click("#confirm-yes")
        await page.until("!document.querySelector('#confirm-error').hidden")
        assert "the old strategy stays" in await page.text("#confirm-error")
        await page.type("#confirm-name", "buy_and_hold")
        await page.run("document.querySelector('#confirm-params').value = 'weight=0.5'")
        await page.click("#confirm-yes")
        await page.until("document.querySelector('#run').textContent.startsWith('buy_and_hold since ')")
        assert '"weight":0.5' in await page.run("return document.querySelector('#run').title")

        risk = daemon.pipeline.engine.risk
        await page.click("#kill")
        assert "Trading is halted at once" in await page.text("#confirm-text")
        await page.click("#confirm [value='no']")
        assert not risk.halted
        await page.click("#kill")
        await page.click("#confirm-yes")
        await page.until("document.querySelector('#risk').textContent === 'HALTED'")
        assert (daemon.status().risk, daemon.status().risk_rule) == (RiskState.HALTED, "kill")
        assert "killed by dashboard 127.0.0.1" in await page.text("#tiles")
        assert await page.run("return document.querySelector('#pause').disabled")

        await page.click("#resume")
        assert f"“{RESUME_FROM_KILL}”" in await page.text("#confirm-phrase")
        await page.click("#confirm-yes")
        await page.until("!document.querySelector('#confirm-error').hidden")
        assert risk.state is RiskState.HALTED
        await page.type("#confirm-typed", RESUME_FROM_KILL)
        await page.click("#confirm-yes")
        await page.until("document.querySelector('#risk').textContent === 'ACTIVE'")
        assert risk.state is RiskState.ACTIVE
        assert [
            line for line in await page.console_errors() if "403" not in line and "404" not in line
        ] == []  # the resume without confirmation, and the wrong parameters
    await page.until("document.body.classList.contains('stale')")
    assert "Connection lost" in await page.text("#banner")
    assert await page.run(
        "return [...document.querySelectorAll('#buttons button')].every((button) => button.disabled)"
    )


HOSTILE = (
    "<script>window.pwned = 1</script> bitcoin",
    "<img src=x onerror='window.pwned = 1'> bitcoin",
    "bitcoin \u202egnisaelp si siht\u2066",
    "bitcoin " + "<b>" * 3_000,
)


async def test_markup_in_a_headline_is_shown_as_text(page: BrowserPage, database: Database) -> None:
    agent = FakeAgent()
    agent.feed(*(bar(number) for number in range(3)))
    agent.feed(
        *(headline(number, title, "javascript:window.pwned=1") for number, title in enumerate(HOSTILE))
    )
    agent.feed(headline(9, "plain bitcoin", "https://wire.example/?a=1&b=<script>"))
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url(), screen=PHONE)
        await page.until("document.querySelectorAll('#headlines [data-id]').length === 5")
        titles = await page.run(
            "return [...document.querySelectorAll('#headlines .title bdi')].map(one => one.textContent)"
        )
        assert titles[0] == "plain bitcoin"
        assert titles[1].startswith("bitcoin <b><b>")
        assert len(titles[1]) == TITLE_LENGTH
        assert titles[2:] == ["bitcoin gnisaelp si siht", HOSTILE[1], HOSTILE[0]]
        assert (
            await page.run(
                "return document.querySelectorAll("
                "'#headlines :is(script, img, b), #legend :is(script, img, b)').length"
            )
            == 0
        )
        assert not await page.run("return window.pwned")
        links = await page.run(
            "return [...document.querySelectorAll('#headlines a')]"
            ".map(one => [one.protocol, one.rel, one.target])"
        )
        assert links == [["https:", "noopener noreferrer nofollow", "_blank"]]
        assert await page.run("return document.documentElement.scrollWidth") <= PHONE["width"]
        assert await page.console_errors() == []


READ_CHIPS = """
return [...document.querySelectorAll('#headlines [data-id]')].map((row) => [
  row.querySelector('.kind')?.textContent ?? '',
  [...row.querySelectorAll('.chip')].map((chip) => chip.textContent),
  [...row.querySelectorAll('.chip > :not([aria-hidden])')].map((part) => part.textContent).join(''),
]);
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_the_kind_and_the_answer_for_each_asset_are_shown_as_text(
    page: BrowserPage, database: Database, screen: dict[str, Any], dark: bool
) -> None:
    both = AssetSentiment("BTC", 0.82, 0.1, 0.08), AssetSentiment("ETH", 0.05, 0.18, 0.77)
    hostile = AssetSentiment("<img src=x>", 0.0, 1.0, 0.0)
    many = [AssetSentiment(f"COIN{number}", 0.1, 0.2, 0.7) for number in range(10)]
    answers = ((both, "price"), ((), ""), ((hostile,), "<b>kind</b>"), (many, "opinion"))
    agent = FakeAgent()
    agent.feed(*(bar(number) for number in range(3)))
    for number, (assets, kind) in enumerate(answers):
        news = headline(number, f"headline {number}")
        agent.feed(news, scored(news, *assets, kind=kind))
    at = bar(3).start
    voted = Signal("BTCUSDT", at, Direction.SELL, 0.8, 0.8, 0.1, 0.1, True, ("n1",), "price")
    agent.state.decision(1, voted)
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url(), screen=screen, dark=dark)
        await page.until("document.querySelectorAll('#headlines [data-id]').length === 4")
        listed, odd, old, moved = await page.run(READ_CHIPS)
        down, up = "bearish 0.82, neutral 0.10, bullish 0.08", "bearish 0.05, neutral 0.18, bullish 0.77"
        assert moved == [
            "kind of news: price",
            [f"BTC ▼ .82: {down}", f"ETH ▲ .77: {up}"],
            f"BTC: {down}ETH: {up}",
        ]
        assert old == ["", [], ""]
        assert odd[:2] == [
            "kind of news: <b>kind</b>",
            ["<img src=x> ■ 1.00: bearish 0.00, neutral 1.00, bullish 0.00"],
        ]
        assert (len(listed[1]), listed[1][-1]) == (9, "and 2 more")
        assert await page.text("#market [data-symbol=BTCUSDT] .kind") == "kind of news: price"
        assert await page.run("return document.querySelector(':is(#headlines, #market) :is(img, b)')") is None
        assert await page.run("return document.documentElement.scrollWidth") <= screen["width"]
        assert await page.run(CONTRAST.replace('"p, dd', '".chip, .kind, p, dd')) >= 4.5
        assert await page.console_errors() == []


READ_ANSWERS = """
return [...document.querySelectorAll('#headlines [data-id]')].map((row) => [
  row.querySelector('.answers').textContent, row.querySelector('.why')?.textContent ?? '',
]);
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_a_revision_and_its_reason_are_shown_as_text(
    page: BrowserPage, database: Database, screen: dict[str, Any], dark: bool
) -> None:
    bull, bear = (0.1, 0.07, 0.83), (0.71, 0.2, 0.09)
    reason = "<img src=x onerror=window.pwned=1> The fund opens on Monday, " + "averylongword" * 12
    cases = ((bear, bull, reason), (None, bear, ""), (bull, None, ""))
    agent = FakeAgent()
    agent.feed(*(bar(number) for number in range(3)))
    for number, (before, after, why) in enumerate(cases):
        news = headline(number, f"Regulator approves bitcoin fund number {number}")
        agent.feed(news, answered(news, before, 250, provisional=True))
        agent.feed(answered(news, after, 5_000, reason=why))
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url(), screen=screen, dark=dark)
        await page.until("document.querySelectorAll('#headlines [data-id]').length === 3")
        kept, late, revised = await page.run(READ_ANSWERS)
        assert revised[0].endswith("▲ bullish 0.830.10 · 0.07 · 0.83revised: bearish .71 → bullish .83")
        assert revised[1] == reason
        assert late == [
            "▼ bearish 0.710.71 · 0.20 · 0.09revised: abstained → bearish .71",
            "",
        ]
        assert kept[0].endswith("0.83not revised: the slower model abstained")
        assert await page.run("return [window.pwned ?? 0, document.querySelector('#headlines img')]") == [
            0,
            None,
        ]
        assert await page.run("return document.documentElement.scrollWidth") <= screen["width"]
        assert await page.run(CONTRAST.replace('"p, dd', '".revised, .revised *, .why *, p, dd')) >= 4.5
        assert await page.console_errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
async def test_pages_fit_a_phone_and_have_enough_contrast_in_both_themes(
    page: BrowserPage, database: Database, dark: bool
) -> None:
    agent = FakeAgent()
    agent.feed(
        *(bar(number, 98_765.43 + number) for number in range(60)),
        headline(1, "Bitcoin " + "verylongword" * 20),
    )
    async with served(database, agent) as served_page:
        for path in ("login?wrong", f"runs?{served_page.login_url().partition('?')[2]}", ""):
            await page.open(f"{served_page.url}{path}", screen=PHONE, dark=dark)
            await page.until(
                "document.querySelector('#board:not([hidden]) #headlines li, #run-table td, .error') !== null"
            )
            assert await page.run("return document.documentElement.scrollWidth") <= PHONE["width"], path
            assert await page.run(CONTRAST) >= 4.5  # WCAG 2.2, level AA
        assert await page.console_errors() == []


CONTRAST = """
const luminance = (colour) => {
  const parts = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255)\
.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const paper = luminance(getComputedStyle(document.documentElement).backgroundColor);
let worst = 99;
for (const element of document.querySelectorAll("p, dd, dt, td, th, h1, h2, time, bdi, a")) {
  if (!element.textContent.trim() || !element.checkVisibility()) continue;
  const ink = luminance(getComputedStyle(element).color);
  worst = Math.min(worst, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
}
return worst;
"""


@pytest.mark.slow
async def test_without_a_login_only_the_login_form_is_shown(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    token = tmp_path / "page.token"
    agent = FakeAgent()
    agent.feed(bar(1))
    async with served(database, agent, token_file=str(token)) as served_page:
        await page.open(served_page.url)
        assert await page.run("return location.pathname") == "/login"
        await page.type("#token", "not the token")
        await page.click("button")
        await page.until("document.querySelector('[role=alert]')?.textContent.includes('Wrong token')")
        await page.type("#token", token.read_text().strip())
        await page.click("button")
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return document.cookie") == ""  # scripts can't read it
        assert await page.console_errors() == []
        await page.click("nav form button")  # log out
        await page.until("location.pathname === '/login'")
        await page.do(lambda chrome: chrome.back())
        await page.until("location.pathname === '/login'")


@pytest.mark.slow
async def test_a_login_link_opens_the_page_directly_and_from_a_local_file(
    page: BrowserPage, database: Database, tmp_path: Path
) -> None:
    agent = FakeAgent()
    agent.feed(bar(1))
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url())
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return location.href") == served_page.url
    file = tmp_path / "dashboard.html"
    async with served(database, agent) as served_page:  # with another token
        file.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={served_page.login_url()}">'
        )
        await page.open(file.as_uri())
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return location.href") == served_page.url
        assert await page.console_errors() == []


@asynccontextmanager
async def another_site() -> AsyncIterator[str]:
    """Serve an empty page from another origin, in which a test can run scripts."""

    async def respond(_: web.Request) -> web.Response:
        return web.Response(text="<title>another site</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


TRY_ALL_APIS = """
const [url, done] = arguments;
const stream = new Promise((resolve) => {
  const socket = new WebSocket(url.replace("http", "ws") + "api/live");
  socket.onopen = () => resolve("open");
  socket.onclose = () => resolve("refused");
});
const read = fetch(url + "api/runs").then(() => "read", () => "refused");
const body = JSON.stringify({action: "kill", run: "20250303-142500-aaaaaaaa"});
const command = fetch(url + "api/command", {method: "POST", mode: "no-cors", body})\
.then(() => "sent", () => "refused");
Promise.all([stream, read, command]).then(done);
"""


async def test_scripts_of_another_site_have_no_access(page: BrowserPage, database: Database) -> None:
    agent = FakeAgent()
    async with served(database, agent) as target, another_site() as other_site:
        await page.open(target.login_url())  # logs the browser in
        await page.until("document.querySelector('#risk')?.textContent")
        await page.open(other_site)
        stream, read, command = await page.do(
            lambda chrome: chrome.execute_async_script(TRY_ALL_APIS, target.url)
        )
        assert (stream, read) == ("refused", "refused")
        assert command in ("sent", "refused")  # the browser may send it, but the server denies it
        assert agent.commands == []
        await page.open(target.url)  # the same scripts work on the page itself
        stream, read, command = await page.do(
            lambda chrome: chrome.execute_async_script(TRY_ALL_APIS, target.url)
        )
        assert (stream, read, command) == ("open", "read", "sent")
        assert [action for action, _, _ in agent.commands] == ["kill"]


@pytest.mark.slow
async def test_a_recorded_run_can_be_played_back(
    page: BrowserPage, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with agent_with_page(sandbox, database, tmp_path) as (daemon, _):
        await until(lambda: handled(daemon) > 100)
        await until(lambda: daemon.pipeline.engine.portfolio.turnover > 0)
    async with served(database) as served_page:
        await page.open(served_page.login_url())
        assert await page.run("return location.pathname") == "/runs"
        await page.until("document.querySelector('#run-table td a')?.textContent")
        await page.click("#run-table td a")
        at_end = await page.until(
            "document.querySelector('#when')?.dataset.shown && document.querySelector('#tiles').textContent"
        )
        fills = await page.run("return document.querySelectorAll('#fills [data-id]').length")
        assert fills > 0
        assert await page.run("return document.querySelector('#buttons').hidden")
        await page.run(
            "const slider = document.querySelector('#moment'); slider.value = slider.min; "
            "slider.dispatchEvent(new Event('input'))"
        )
        await page.until("document.querySelector('#fills').textContent === 'No fills yet.'")
        assert await page.text("#tiles") != at_end
        shown = "document.querySelector('#when').dataset.shown"
        await page.until(f"{shown} === document.querySelector('#moment').min")
        found = 0
        while not found:  # on a machine that stalls, the risk state may change before the first fill
            before = await page.run(f"return {shown}")
            await page.click("#after")
            await page.until(f"{shown} !== arguments[0]", before)
            found = await page.run("return document.querySelectorAll('#fills [data-id]').length")
        assert found == 1
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_the_page_works_below_a_path_of_a_reverse_proxy(page: BrowserPage, database: Database) -> None:
    agent = FakeAgent()
    agent.feed(*(bar(number) for number in range(3)))
    async with served(database, agent) as served_page, proxy(served_page.url) as url:
        await page.open(f"{url}?{served_page.login_url().partition('?')[2]}")
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return location.href") == url
        await page.click("#to-runs")
        await page.until("document.querySelector('#run-table td')?.textContent")
        assert await page.run("return location.href") == f"{url}runs"
        await page.click("#to-live")
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        await page.click("#pause")
        await page.click("#confirm-yes")
        await until(lambda: [action for action, _, _ in agent.commands] == ["pause"])
        await page.click("nav form button")  # log out
        await page.until(f"location.href === '{url}login'")
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_the_banner_explains_a_proxy_that_changes_the_host(
    page: BrowserPage, database: Database
) -> None:
    async with served(database, FakeAgent()) as served_page, proxy(served_page.url, keep_host=False) as url:
        await page.open(f"{url}?{served_page.login_url().partition('?')[2]}")
        # The banner changes between attempts, so both parts must be matched at once
        await page.until(
            "/live connection is refused.*Host header/.test(document.querySelector('#banner').textContent)"
        )


class Measuring(FakeAgent):
    """An agent that shows a status of its model."""

    def __init__(self, model_drift: ModelDriftStatus) -> None:
        super().__init__()
        self.model_drift = model_drift

    def health(self) -> dict[str, Any]:
        queue = dict.fromkeys(("depth", "high_water", "blocked", "coalesced", "dropped"), 0)
        return {
            **{"now": 0, "uptime_s": 1.0, "model": "m", "sources": [], "feeds": [], "listeners": []},
            **{"storage": {"writable": True}, "latencies": {}, "queue": queue},
            "model_drift": self.model_drift,
        }


async def test_the_health_panel_shows_the_drift_of_the_model(page: BrowserPage, database: Database) -> None:
    even = reference_shares([HeadlineScore(*one) for one in ((0.8, 0.1, 0.1), (0.1, 0.1, 0.8)) * 100])
    window, tally = SentimentWindow(500), MoveTally(3_600_000)
    for number in range(120):
        window.add(HeadlineScore(0.1, 0.1, 0.8), model="m", unknown=0.125)
        call = DirectionalCall(f"h{number}", "BTCUSDT", True, 0.8, 0)
        tally.add(call, 100.0, 101.0 if number % 2 else 99.0)
    status = ModelDriftStatus(500, window.compare(even), tally.result(pending=3))
    async with served(database, Measuring(status)) as served_page:
        await page.open(served_page.login_url(), screen=PHONE)
        shown = await page.until("document.querySelector('#model-drift')?.textContent")
        text = (await page.text("#health")).replace("\u00a0", " ")
        overflow = await page.run(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
    assert shown.startswith("Model drift: drifted on the last 120 of at most 500 headlines: class (PSI ")
    assert "bearish 0.0 % (50.0 %)" in text
    assert "unknown tokensunknown–unknown 12.5 %" in text  # the card of the model doesn't have them
    assert "Price 60 min later as predicted: 50.0 % [41.2 %, 58.8 %] of 120 calls on 120 headlines" in text
    assert "(3 pending, 0 unmoved, 0 without a price)" in text
    assert overflow <= 0
    assert await page.console_errors() == []


@pytest.mark.slow
async def test_plotted_lines_are_drawn_over_the_candles_or_in_a_pane_of_their_own(
    page: BrowserPage, database: Database
) -> None:
    panes = "document.querySelectorAll('#candles table tr').length"
    agent = FakeAgent()
    agent.feed(*(bar(number, 100 + number % 5) for number in range(30)))
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url())
        alone = await page.until(panes)
        for number in range(30, 60):
            closed = bar(number, 100 + number % 5)
            agent.feed(closed)
            agent.state.decision(number, Plot("BTCUSDT", closed.ts, "ema", 101 + number % 2))
            agent.state.decision(number, Plot("BTCUSDT", closed.ts, "rsi", 1_000 + number))
        await page.until(f"{panes} > arguments[0]", alone)
        with_pane = await page.run(f"return {panes}")
        assert with_pane == alone + 2  # the pane and its separator
        await page.open(served_page.login_url())  # the rows arrive all at once
        await page.until(f"{panes} === arguments[0]", with_pane)
        assert await page.console_errors() == []
