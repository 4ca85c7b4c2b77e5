"""The twin, what-ifs and the stories of recorded runs on the page, in a real browser."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from agent.dashboard.replay_views import live_twin_row
from agent.live.interfaces.status import TwinStatus
from agent.store.database import Database
from tests.dashboard.browser_page import DESKTOP, PHONE, BrowserPage
from tests.dashboard.dashboard_harness import FakeAgent, bar, served
from tests.dashboard.replays import SLOW, RecordedRuns
from tests.dashboard.test_browser import CONTRAST
from tests.dashboard.test_replay_jobs import workers

BOTH = pytest.mark.parametrize(
    ("screen", "dark"), [(DESKTOP, False), (PHONE, True)], ids=["desktop-light", "phone-dark"]
)
WIDTH = "return document.documentElement.scrollWidth"
REQUESTED = "return performance.getEntriesByType('resource').map((one) => new URL(one.name).origin)"
BARS = """
return [...document.querySelectorAll('#twin .waterfall tr')].map((row) => {
  const [bar, cell] = [row.querySelector('i'), row.querySelector('.bar')]
    .map((one) => one.getBoundingClientRect());
  return [row.querySelector('th').textContent, row.querySelector('.n').textContent,
    (bar.left - cell.left) / cell.width, bar.width / cell.width];
});
"""


def amount(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


async def assert_sound(page: BrowserPage, url: str, screen: dict[str, Any]) -> None:
    """The page fits the screen, is readable, loaded nothing from elsewhere, and broke no policy."""
    assert await page.run(WIDTH) <= screen["width"]
    assert await page.run(CONTRAST.replace('"p, dd', '"summary, legend, label, span, p, dd')) >= 4.5
    assert {f"{one}/" for one in await page.run(REQUESTED)} <= {url}
    assert await page.console_errors() == []


@pytest.mark.slow
@BOTH
async def test_a_recorded_run_at_a_venue_is_shown_against_its_twin(
    page: BrowserPage, runs: RecordedRuns, screen: dict[str, Any], dark: bool
) -> None:
    database, _, run = runs
    async with served(database) as served_page:
        link = served_page.login_url().partition("?")[2]
        await page.open(f"{served_page.url}runs/{run.id}?{link}", screen=screen, dark=dark)
        await page.until("document.querySelector('#twin .waterfall') !== null", within=SLOW)
        bars = await page.run(BARS)
        assert (bars[0][0], bars[-1][0]) == ("Equity of the twin", "Equity at the venue")
        assert amount(bars[0][1]) + sum(amount(bar[1]) for bar in bars[1:-1]) == pytest.approx(
            amount(bars[-1][1]), abs=0.01 * len(bars)
        )
        assert amount(bars[-1][1]) == pytest.approx(float(run.final_equity or 0), abs=0.01)
        for (_, _, left, width), (_, text, after, length) in pairwise(bars[:-1]):
            ends = (left, left + width)
            begins = after + length if amount(text) < 0 else after
            assert min(abs(begins - one) for one in ends) < 0.02  # each bar begins where one ended
        assert "less than the twin" in await page.text("#twin")
        assert "nothing was decided anew" in await page.text("#twin .notes")
        await page.run("for (const one of document.querySelectorAll('#twin details')) one.open = true")
        assert await page.run("return document.querySelectorAll('#twin .twin-orders tbody tr').length") > 5
        await assert_sound(page, served_page.url, screen)


@pytest.mark.slow
@BOTH
async def test_a_what_if_is_chosen_run_and_shown(
    page: BrowserPage, runs: RecordedRuns, screen: dict[str, Any], dark: bool
) -> None:
    database, run, _ = runs
    async with served(database) as served_page:
        link = served_page.login_url().partition("?")[2]
        await page.open(f"{served_page.url}runs/{run.id}?{link}", screen=screen, dark=dark)
        await page.until("document.querySelector('#when')?.dataset.shown")
        assert await page.run("return document.querySelector('#twin-panel').hidden")  # it has no venue
        await page.click("#to-what-if")
        await page.until("document.querySelectorAll('#what-if-headlines li').length > 5")
        await page.type("#what-if-search", "whales accumulating")
        await page.until("document.querySelectorAll('#what-if-headlines li').length === 1")
        title = await page.text("#what-if-headlines .title")
        await page.click("#what-if-headlines button:last-of-type")  # flip
        await page.run(
            "const kind = document.querySelector('#what-if-kind'); kind.value = 'setting'; "
            "kind.dispatchEvent(new Event('change')); "
            "const name = document.querySelector('#what-if-setting-name'); "
            "name.value = 'paper.half_spread_bps'; name.dispatchEvent(new Event('change'))"
        )
        assert await page.text("#what-if-setting-now") == "in the run: 0.5"
        await page.type("#what-if-setting-value", "25")
        await page.click("#what-if-setting-add")
        changes = await page.run(
            "return [...document.querySelectorAll('#what-if-changes bdi')].map((one) => one.textContent)"
        )
        assert changes == [
            f"read the other way round: “{title}”",
            "paper.half_spread_bps = 25 (in the run 0.5)",
        ]
        await page.click("#what-if-run")
        await page.until("!document.querySelector('#what-if-answer').hidden", within=SLOW)
        verdict = await page.text("#what-if-verdict")
        assert verdict.startswith("The changed life ends with ")
        assert verdict.endswith(" USDT less.")
        first = await page.text("#what-if-first")
        assert "The first decision that differs: event " in first
        assert await page.run("return document.querySelectorAll('#what-if-lives canvas').length") > 2
        rows = await page.run(
            "return [...document.querySelectorAll('#what-if-figures tbody tr')]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        final = next(row for row in rows if row[0] == "final equity")
        assert amount(final[1]) == pytest.approx(float(run.final_equity or 0), abs=0.01)
        assert amount(final[2]) - amount(final[1]) == pytest.approx(amount(final[3]), abs=0.011)
        assert f"{abs(amount(final[3])):,.2f} USDT" in verdict
        await assert_sound(page, served_page.url, screen)


@pytest.mark.slow
async def test_a_what_if_works_by_keyboard_and_from_the_moment_of_the_slider(
    page: BrowserPage, runs: RecordedRuns
) -> None:
    database, run, _ = runs
    async with served(database) as served_page:
        link = served_page.login_url().partition("?")[2]
        at = (run.first_event_at or 0) + 18 * 3_600_000
        await page.open(f"{served_page.url}runs/{run.id}?at={at}&{link}")
        await page.until("document.querySelector('#when')?.dataset.shown")

        async def press(*keys: str) -> None:
            for key in keys:
                await page.do(lambda chrome, key=key: chrome.switch_to.active_element.send_keys(key))

        async def focus(id: str) -> None:
            """Go on with the Tab key until the element has the focus."""
            for _ in range(60):
                if await page.run("return document.activeElement.id") == id:
                    return
                await press(Keys.TAB)
            raise AssertionError(f"{id} can't be reached by keyboard")

        await focus("what-if-summary")
        await press(Keys.ENTER)
        await page.until("document.querySelectorAll('#what-if-headlines li').length > 5")
        listed = await page.text("#what-if-found")
        await focus("what-if-from-start")
        await press(Keys.ARROW_DOWN)  # the selected moment
        await page.until("document.querySelector('#what-if-found').textContent.includes('after')")
        assert await page.text("#what-if-found") != listed
        await focus("what-if-kind")
        await press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)  # a parameter
        await focus("what-if-param-value")
        await press("0.1", Keys.ENTER)
        await focus("what-if-run")
        await press(Keys.ENTER)
        await page.until("!document.querySelector('#what-if-answer').hidden", within=SLOW)
        made = await page.text("#what-if-made")
        assert "position_size = 0.1 (in the run 0.5), from 2025-03-03 06:0" in made
        assert await page.console_errors() == []


@pytest.mark.slow
async def test_a_what_if_can_be_cancelled_and_an_error_is_shown(
    page: BrowserPage, runs: RecordedRuns
) -> None:
    database, run, _ = runs
    async with served(database) as served_page:
        link = served_page.login_url().partition("?")[2]
        await page.open(f"{served_page.url}runs/{run.id}?{link}")
        await page.until("document.querySelector('#when')?.dataset.shown")
        await page.click("#to-what-if")
        await page.until("document.querySelectorAll('#what-if-headlines li').length > 5")
        await page.click("#what-if-run")
        await page.until("document.querySelector('#what-if-job progress')?.checkVisibility()")
        await page.run("window.scrollTo(0, document.querySelector('#what-if-job').offsetTop)")
        await page.run("document.querySelector('#what-if-job button').click()")
        await page.until("document.querySelector('#what-if-job .error').checkVisibility()")
        assert await page.text("#what-if-job .error") == "cancelled"
        assert workers() == []
        await page.run(
            "const kind = document.querySelector('#what-if-kind'); kind.value = 'setting'; "
            "kind.dispatchEvent(new Event('change'))"
        )
        await page.type("#what-if-setting-value", "<b>7</b>")
        await page.click("#what-if-setting-add")
        await page.click("#what-if-run")
        await page.until(
            "document.querySelector('#what-if-job .error').textContent.includes('signals.threshold')",
            within=SLOW,
        )
        assert await page.run("return document.querySelector('#what-if b')") is None
        assert not await page.run("return document.querySelector('#what-if-run').disabled")
        assert await page.console_errors() == []


@pytest.mark.slow
@BOTH
async def test_stories_are_listed_and_lead_to_a_what_if(
    page: BrowserPage, runs: RecordedRuns, screen: dict[str, Any], dark: bool
) -> None:
    database, run, _ = runs
    async with served(database) as served_page:
        link = served_page.login_url().partition("?")[2]
        await page.open(f"{served_page.url}runs/{run.id}?{link}", screen=screen, dark=dark)
        await page.until("document.querySelector('#when')?.dataset.shown")
        await page.run("document.querySelector('#stories-run').click()")
        await page.until("document.querySelectorAll('#stories td').length > 5", within=SLOW)
        assert "stories that voted changed the result" in await page.text("#stories-summary")
        title = await page.text("#stories tbody tr:first-child bdi")
        await page.run("document.querySelector('#stories tbody tr:first-child button').click()")
        assert await page.run("return document.querySelector('#what-if').open")
        assert await page.text("#what-if-changes bdi") == f"without “{title}”"
        await assert_sound(page, served_page.url, screen)


class WithTwin(FakeAgent):
    """An agent at a venue with `[twin] enabled`."""

    def __init__(self, status: TwinStatus) -> None:
        super().__init__()
        self.status = status

    def health(self) -> dict[str, Any]:
        queue = dict.fromkeys(("depth", "high_water", "blocked", "coalesced", "dropped"), 0)
        return {
            **{"now": 0, "uptime_s": 1.0, "model": "", "sources": [], "feeds": [], "listeners": []},
            **{"storage": {"writable": True}, "latencies": {}, "queue": queue, "model_drift": None},
            "twin": live_twin_row(self.status),
        }


@pytest.mark.slow
@BOTH
async def test_the_twin_of_the_running_agent_is_shown_live(
    page: BrowserPage, database: Database, screen: dict[str, Any], dark: bool
) -> None:
    none = TwinStatus(0, None, None, None, -1.0, 1.0, {}, False, "")
    agent = WithTwin(none)
    agent.feed(*(bar(number) for number in range(3)))
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url(), screen=screen, dark=dark)
        await page.until("document.querySelector('#twin')?.textContent.includes('No order')")
        causes = {"spread": -2.5, "latency": 0.75, "fee": -1.0, "rounding": 0.0}
        agent.status = TwinStatus(40, -2.75, -3.5, -2.0, -1.0, 1.0, causes, True, "")
        await page.until("document.querySelector('#twin .waterfall') !== null")
        bars = await page.run(BARS)
        assert [(name.split(":")[0], text) for name, text, _, _ in bars] == [
            ("On paper", "0.00"),
            ("Latency", "+0.75"),
            ("Spread", "−2.50"),
            ("Fee", "−1.00"),
            ("At the venue", "−2.75"),
        ]
        text = await page.text("#twin")
        assert "40 orders differ from paper by −2.75 bps on average. Outside of what the model" in text
        assert "interval −3.50 to −2.00; the model allows −1.00 to +1.00" in text.replace("\u00a0", " ")
        await assert_sound(page, served_page.url, screen)
        agent.status = TwinStatus(40, -2.75, -3.5, -2.0, -1.0, 1.0, causes, True, "KeyError: <b>")
        await page.until("document.querySelector('#twin').textContent.includes('ended: KeyError: <b>')")


async def test_an_agent_without_a_twin_has_no_empty_section(page: BrowserPage, database: Database) -> None:
    agent = FakeAgent()
    agent.feed(*(bar(number) for number in range(3)))
    async with served(database, agent) as served_page:
        await page.open(served_page.login_url())
        await page.until("document.querySelector('#risk')?.textContent === 'ACTIVE'")
        for panel in ("#twin-panel", "#what-if", "#stories-panel", "#to-what-if"):
            assert not await page.run("return document.querySelector(arguments[0]).checkVisibility()", panel)
