"""The page in a real browser: used, clicked and looked at, beside a living agent."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from agent.core.events import Decision, Event, Fill, RiskState
from agent.core.risk import RESUME_FROM_KILL
from agent.dashboard.views import TITLE
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.dashboard.proxy import proxy
from tests.dashboard.world import Puppet, agent_with_page, bar, headline, served
from tests.support.live import PATIENCE, handled, options, until

T = TypeVar("T")
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
DESK = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}


class Page:
    """A browser in the hands of a test; what it does takes a thread, so that the agent beside it goes on."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    async def do(self, work: Callable[[Chrome], T]) -> T:
        return await asyncio.to_thread(work, self.chrome)

    async def run(self, script: str, *arguments: Any) -> Any:
        return await self.do(lambda chrome: chrome.execute_script(script, *arguments))

    async def open(self, url: str, *, screen: dict[str, Any] = DESK, dark: bool = False) -> None:
        def go(chrome: Chrome) -> None:
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            chrome.get("about:blank")  # the last test's page, whose agent is gone, has nothing more to say
            chrome.get_log("browser")
            chrome.get(url)

        await self.do(go)

    async def text(self, css: str) -> str:
        return str(await self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    async def click(self, css: str) -> None:
        await self.do(lambda chrome: chrome.find_element(By.CSS_SELECTOR, css).click())

    async def type(self, css: str, text: str) -> None:
        await self.do(lambda chrome: chrome.find_element(By.CSS_SELECTOR, css).send_keys(text))

    async def until(self, script: str, *arguments: Any) -> Any:
        """Until the expression is true in the page; returns it."""
        async with asyncio.timeout(PATIENCE):
            while not (value := await self.run(f"return {script}", *arguments)):
                await asyncio.sleep(0.05)
        return value

    async def complaints(self) -> list[str]:
        """What the browser's console says is wrong: errors, and what the page's policy forbade."""
        return [
            str(line["message"])
            for line in await self.do(lambda chrome: chrome.get_log("browser"))
            if line["level"] == "SEVERE"
        ]


@pytest.fixture
def page(browser: Chrome) -> Page:
    return Page(browser)


class FillTimes:
    """When each fill was made, by the machine's clock."""

    def __init__(self) -> None:
        self.made: dict[str, float] = {}

    def event(self, seq: int, event: Event) -> None:
        pass

    def decision(self, seq: int, decision: Decision) -> None:
        if isinstance(decision, Fill):
            self.made[decision.id] = time.time() * 1000


NOTE_FILLS = """
window.shown = {};
const note = () => {
  for (const row of document.querySelectorAll("#trades [data-id]")) window.shown[row.dataset.id] ??= Date.now();
};
note();
new MutationObserver(note).observe(document.getElementById("trades"), {childList: true, subtree: true});
"""


async def test_fills_are_pushed_and_a_kill_halts_until_it_is_confirmed_away(
    page: Page, database: Database, tmp_path: Path
) -> None:
    async with (
        Sandbox(options(speed=400.0)) as sandbox,
        agent_with_page(sandbox, database, tmp_path) as (daemon, served_page),
    ):
        fills = FillTimes()
        daemon.core.observers.append(fills)
        await until(lambda: handled(daemon) > 0)
        await page.open(served_page.login_url())
        await page.until("document.querySelector('#risk').textContent === 'ACTIVE'")
        await page.run(NOTE_FILLS)
        before = len(fills.made)
        await until(lambda: len(fills.made) >= before + 4)
        await page.until(
            "document.querySelector(`[data-id='${arguments[0]}']`) !== null", list(fills.made)[-1]
        )
        shown = await page.run("return window.shown")
        lags = [shown[fill] - fills.made[fill] for fill in list(fills.made)[before:] if fill in shown]
        assert len(lags) >= 4
        assert statistics.median(lags) < 1_000, lags
        fetched = await page.run(
            "return performance.getEntriesByType('resource').map(one => one.name).filter(n => n.includes('/api/'))"
        )
        assert fetched == []  # nothing was asked for: it came by itself

        account = daemon.core.engine
        await page.click("#kill")
        assert "Trading is halted at once" in await page.text("#confirm-text")
        await page.click("#confirm [value='no']")
        assert account.risk.state is RiskState.ACTIVE
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
        assert account.risk.state is RiskState.HALTED
        await page.type("#confirm-typed", RESUME_FROM_KILL)
        await page.click("#confirm-yes")
        await page.until("document.querySelector('#risk').textContent === 'ACTIVE'")
        assert account.risk.state is RiskState.ACTIVE
        # the one refusal that was asked for
        assert [line for line in await page.complaints() if "403" not in line] == []
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


async def test_a_hostile_headline_is_text(page: Page, database: Database) -> None:
    puppet = Puppet()
    puppet.hear(*(bar(number) for number in range(3)))
    puppet.hear(
        *(headline(number, title, "javascript:window.pwned=1") for number, title in enumerate(HOSTILE))
    )
    puppet.hear(headline(9, "bitcoin, plainly", "https://wire.example/?a=1&b=<script>"))
    async with served(database, puppet) as served_page:
        await page.open(served_page.login_url(), screen=PHONE)
        await page.until("document.querySelectorAll('#headlines [data-id]').length === 5")
        titles = await page.run(
            "return [...document.querySelectorAll('#headlines .title bdi')].map(one => one.textContent)"
        )
        assert titles[0] == "bitcoin, plainly"
        assert titles[1].startswith("bitcoin <b><b>")
        assert len(titles[1]) == TITLE
        assert titles[2:] == ["bitcoin gnisaelp si siht", HOSTILE[1], HOSTILE[0]]
        assert (
            await page.run(
                "return document.querySelectorAll('#headlines :is(script, img, b), #legend :is(script, img, b)').length"
            )
            == 0
        )
        assert not await page.run("return window.pwned")
        links = await page.run(
            "return [...document.querySelectorAll('#headlines a')].map(one => [one.protocol, one.rel, one.target])"
        )
        assert links == [["https:", "noopener noreferrer nofollow", "_blank"]]
        assert await page.run("return document.documentElement.scrollWidth") <= PHONE["width"]
        assert await page.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
async def test_it_fits_a_phone_and_is_readable_in_light_and_dark(
    page: Page, database: Database, dark: bool
) -> None:
    puppet = Puppet()
    puppet.hear(
        *(bar(number, 98_765.43 + number) for number in range(60)),
        headline(1, "Bitcoin " + "verylongword" * 20),
    )
    async with served(database, puppet) as served_page:
        for path in ("login?wrong", f"runs?{served_page.login_url().partition('?')[2]}", ""):
            await page.open(f"{served_page.url}{path}", screen=PHONE, dark=dark)
            await page.until(
                "document.querySelector('#board:not([hidden]) #headlines li, #run-table td, .wrong') !== null"
            )
            assert await page.run("return document.documentElement.scrollWidth") <= PHONE["width"], path
            assert await page.run(CONTRAST) >= 4.5  # WCAG 2.2, level AA
        assert await page.complaints() == []


CONTRAST = """
const luminance = (colour) => {
  const parts = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
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


async def test_without_a_login_a_browser_sees_the_form_alone(
    page: Page, database: Database, tmp_path: Path
) -> None:
    token = tmp_path / "page.token"
    puppet = Puppet()
    puppet.hear(bar(1))
    async with served(database, puppet, token_file=str(token)) as served_page:
        await page.open(served_page.url)
        assert await page.run("return location.pathname") == "/login"
        await page.type("#token", "not the token")
        await page.click("button")
        await page.until("document.querySelector('[role=alert]')?.textContent.includes('not the token')")
        await page.type("#token", token.read_text().strip())
        await page.click("button")
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return document.cookie") == ""  # scripts can't read it
        assert await page.complaints() == []
        await page.click("nav form button")  # log out
        await page.until("location.pathname === '/login'")
        await page.do(lambda chrome: chrome.back())
        await page.until("location.pathname === '/login'")


async def test_a_login_link_opens_the_page_at_once_whatever_leads_to_it(
    page: Page, database: Database, tmp_path: Path
) -> None:
    puppet = Puppet()
    puppet.hear(bar(1))
    async with served(database, puppet) as served_page:
        await page.open(served_page.login_url())
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return location.href") == served_page.url
    file = tmp_path / "dashboard.html"
    async with served(database, puppet) as served_page:  # with a token of its own
        file.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={served_page.login_url()}">'
        )
        await page.open(file.as_uri())
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        assert await page.run("return location.href") == served_page.url
        assert await page.complaints() == []


@asynccontextmanager
async def another_site() -> AsyncIterator[str]:
    """A page of somebody else, whose scripts may try what they like."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<title>elsewhere</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


TRY_ALL = """
const [url, done] = arguments;
const stream = new Promise((tell) => {
  const socket = new WebSocket(url.replace("http", "ws") + "api/live");
  socket.onopen = () => tell("open");
  socket.onclose = () => tell("refused");
});
const read = fetch(url + "api/runs").then(() => "read", () => "refused");
const body = JSON.stringify({action: "kill", run: "20250303-142500-aaaa"});
const command = fetch(url + "api/command", {method: "POST", mode: "no-cors", body}).then(() => "sent", () => "refused");
Promise.all([stream, read, command]).then(done);
"""


async def test_another_sites_scripts_reach_nothing(page: Page, database: Database) -> None:
    puppet = Puppet()
    async with served(database, puppet) as target, another_site() as elsewhere:
        await page.open(target.login_url())  # a browser that is logged in
        await page.until("document.querySelector('#risk')?.textContent")
        await page.open(elsewhere)
        stream, read, command = await page.do(lambda chrome: chrome.execute_async_script(TRY_ALL, target.url))
        assert (stream, read) == ("refused", "refused")
        assert command in ("sent", "refused")  # a browser lets a site send it, and the page doesn't hear it
        assert puppet.told == []
        await page.open(target.url)  # the very same, from the page itself, is heard
        stream, read, command = await page.do(lambda chrome: chrome.execute_async_script(TRY_ALL, target.url))
        assert (stream, read, command) == ("open", "read", "sent")
        assert [action for action, _, _ in puppet.told] == ["kill"]


async def test_a_recorded_run_is_moved_through(
    page: Page, sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    async with agent_with_page(sandbox, database, tmp_path) as (daemon, _):
        await until(lambda: handled(daemon) > 100)
        await until(lambda: daemon.core.engine.portfolio.turnover > 0)
    async with served(database) as served_page:
        await page.open(served_page.login_url())
        assert await page.run("return location.pathname") == "/runs"
        await page.until("document.querySelector('#run-table td a')?.textContent")
        await page.click("#run-table td a")
        at_end = await page.until(
            "document.querySelector('#when')?.dataset.shown && document.querySelector('#tiles').textContent"
        )
        fills = await page.run("return document.querySelectorAll('#trades [data-id]').length")
        assert fills > 0
        assert await page.run("return document.querySelector('#buttons').hidden")
        await page.run(
            "const slider = document.querySelector('#moment'); slider.value = slider.min; slider.dispatchEvent(new Event('input'))"
        )
        await page.until("document.querySelector('#trades').textContent === 'No fill yet.'")
        assert await page.text("#tiles") != at_end
        await page.click("#after")
        await page.until("document.querySelectorAll('#trades [data-id]').length === 1")
        assert await page.complaints() == []


async def test_below_a_path_of_a_reverse_proxy_the_page_works_and_is_live(
    page: Page, database: Database
) -> None:
    puppet = Puppet()
    puppet.hear(*(bar(number) for number in range(3)))
    async with served(database, puppet) as served_page, proxy(served_page.url) as url:
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
        await until(lambda: [action for action, _, _ in puppet.told] == ["pause"])
        await page.click("nav form button")  # log out
        await page.until(f"location.href === '{url}login'")
        assert await page.complaints() == []


async def test_a_proxy_that_changes_host_is_named_as_what_stops_the_stream(
    page: Page, database: Database
) -> None:
    async with served(database, Puppet()) as served_page, proxy(served_page.url, keep_host=False) as url:
        await page.open(f"{url}?{served_page.login_url().partition('?')[2]}")
        # Between two tries the banner names none, so both parts are looked for at once
        await page.until(
            "/live connection is refused.*Host header/.test(document.querySelector('#banner').textContent)"
        )
