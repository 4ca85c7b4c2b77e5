"""Serve the dashboard in tests: beside a real agent, or beside a fake one that receives only the test's
events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import ClientSession, CookieJar

from agent.cli.dashboard_commands import serve_dashboard
from agent.config import Config, parse
from agent.config.services import DashboardConfig
from agent.core.events import AssetSentiment, Kline, News, Provenance, Sentiment
from agent.dashboard.dashboard_state import DashboardState
from agent.dashboard.page_rows import run_header
from agent.dashboard.server import Dashboard
from agent.jobs.job_queue import JobQueue
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.runs import Run, RunKind
from tests.support.live import SYMBOLS, living, load_words, settings

BEGIN = 1_741_011_900_000
ANY_PORT: dict[str, Any] = {"port": 0}
CONFIG = parse({"market": {"symbols": SYMBOLS}, "strategy": {"name": "sma_cross"}}, where="test")


class FakeAgent:
    """An agent without a core: `feed` it events; it notes the commands that it receives."""

    def __init__(self, config: Config = CONFIG, *, bars: int = 300) -> None:
        run = Run("20250303-142500-aaaaaaaa", RunKind.LIVE, BEGIN, "sma_cross")
        self.state: DashboardState = DashboardState(run_header(run, config), config, bars=bars)
        self.commands: list[tuple[str, dict[str, str], str]] = []
        self._seq = 0

    def feed(self, *events: Any) -> None:
        for event in events:
            self._seq += 1
            self.state.event(self._seq, event)

    def health(self) -> dict[str, Any]:
        return {}

    async def command(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        self.commands.append((action, args, by))
        return {"action": action}


def bar(number: int, close: float = 100.0, symbol: str = "BTCUSDT") -> Kline:
    start = BEGIN + 60_000 * number
    return Kline(
        symbol, 60_000, start, start + 60_000, start + 60_000, close, close + 1, close - 1, close, 10.0
    )


def headline(number: int, title: str, url: str = "https://wire.example/1") -> News:
    at = BEGIN + 1_000 * number
    return News(f"{number:032x}", at, at, title, url=url, publisher="Harbour Wire", currencies=("BTC",))


def scored(news: News, *assets: AssetSentiment, kind: str = "", abstained: bool = False) -> Sentiment:
    """Return a bullish sentiment of a headline with answers for `assets`, and the kind of news if given."""
    known = news.available_at + 250
    three = (1 / 3, 1 / 3, 1 / 3) if abstained else (0.1, 0.2, 0.7)
    return Sentiment(
        news.id,
        known,
        known,
        *three,
        abstained=abstained,
        assets=assets,
        kind=kind,
        kind_confidence=0.9 if kind else 0.0,
    )


def answered(
    news: News,
    p: tuple[float, float, float] | None,
    after: int,
    *,
    provisional: bool = False,
    reason: str = "",
) -> Sentiment:
    """Return a sentiment of a headline `after` ms later; None is an abstention, a `reason` a language
    model's.
    """
    at = news.available_at + after
    told = Provenance("qwen3:8b", "f" * 64, 42, ("bullish",), reason=reason) if reason else None
    three = p or (1 / 3, 1 / 3, 1 / 3)
    return Sentiment(news.id, at, at, *three, abstained=p is None, provisional=provisional, provenance=told)


@asynccontextmanager
async def served(
    database: Database, agent: Any = None, *, jobs: JobQueue | str = "no jobs", **options: Any
) -> AsyncIterator[Dashboard]:
    """Serve the page on a free port, without a daemon."""
    with TemporaryDirectory() as folder:
        config = DashboardConfig.model_validate(ANY_PORT | options)
        token = Path(folder) / "dashboard.token"
        async with Dashboard(config, database, agent, token_file=token, jobs=jobs) as page:
            yield page


@asynccontextmanager
async def agent_with_page(
    sandbox: Sandbox, database: Database, folder: Path, **sections: Any
) -> AsyncIterator[tuple[Daemon, Dashboard]]:
    """Run a daemon and its page, as `tapewire run` does."""
    config = settings(sandbox.rest_url, folder, dashboard=ANY_PORT, **sections)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with serve_dashboard(config, database, daemon) as page, living(daemon, complete=True):
        assert page is not None
        yield daemon, page


@asynccontextmanager
async def client(url: str) -> AsyncIterator[ClientSession]:
    """Open an HTTP session that keeps cookies. If `url` is a login link, the session is logged in."""
    base, _, link = url.partition("?")
    async with ClientSession(base, cookie_jar=CookieJar(unsafe=True)) as session:
        if link:
            async with session.get(f"/?{link}", allow_redirects=False) as response:
                assert response.status == 303
        yield session


def origin(page: Dashboard) -> dict[str, str]:
    """The Origin header that a browser sends for the page's own scripts."""
    return {"Origin": page.url.rstrip("/")}


def cookie_header(http: ClientSession) -> str:
    """The Cookie header of a logged-in session, for a request that a test writes itself."""
    return "Cookie: " + "; ".join(f"{one.key}={one.value}" for one in http.cookie_jar) + "\r\n"
