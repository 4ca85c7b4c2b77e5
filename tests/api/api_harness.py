"""Serve the API in tests, with tokens, and call it with the client in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from aiohttp import ClientSession

import tapewire as tw
from agent.api.api_messages import Scope
from agent.api.api_tokens import TokenRegistry
from agent.api.change_feed import ChangeFeed
from agent.config.services import ApiConfig, DashboardConfig
from agent.dashboard.server import API_TOKENS, Dashboard
from agent.jobs.job_queue import JobQueue
from agent.store.database import Database

T = TypeVar("T")
RUN = "20250303-142500-aaaaaaaa"


class StatusOfARun(NamedTuple):
    """As much of a status as the API itself reads."""

    run: str = RUN


class StubAgent:
    """An agent without a core: it notes the commands that it receives."""

    def __init__(self, backlog: int = 1_000) -> None:
        self.state = None
        self.changes = ChangeFeed(lambda: (RUN, {"BTCUSDT": Decimal(0)}), backlog)
        self.commands: list[tuple[str, dict[str, str], str]] = []

    def status(self) -> Any:
        return StatusOfARun()

    def health(self) -> dict[str, Any]:
        return {}

    async def command(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        self.commands.append((action, args, by))
        return {"action": action, "event": 7, "risk": "ACTIVE"}


class Served(NamedTuple):
    """A server with the API; `token` makes a token with scopes."""

    page: Dashboard
    registry: TokenRegistry

    def token(self, *scopes: str, name: str = "", expires_at: int | None = None) -> str:
        name = name or f"t{len(self.registry.read())}"
        return self.registry.add(name, [Scope(one) for one in scopes], 0, expires_at)

    def session(self, *scopes: str) -> ClientSession:
        """Open an HTTP session with a token of these scopes."""
        return ClientSession(self.page.url, headers={"Authorization": f"Bearer {self.token(*scopes)}"})

    async def call(self, work: Callable[[tw.Client], T], scopes: Sequence[str] = ("read",)) -> T:
        """Call `work` with a client in a thread."""
        token = self.token(*scopes)

        def called() -> T:
            with tw.Client(self.page.url, token) as client:
                return work(client)

        return await asyncio.to_thread(called)


@asynccontextmanager
async def api_served(
    database: Database,
    agent: Any = None,
    *,
    clock: Any = None,
    dashboard: Any = None,
    jobs: JobQueue | str = "no jobs",
    **options: Any,
) -> AsyncIterator[Served]:
    """Serve the API on a free port; `options` are those of [api], `dashboard` those of [dashboard]."""
    with TemporaryDirectory() as folder:
        config = DashboardConfig.model_validate({"port": 0} | (dashboard or {}))
        file = Path(folder) / "dashboard.token"
        api = ApiConfig.model_validate(options)
        async with Dashboard(
            config, database, agent, token_file=file, api=api, clock=clock, jobs=jobs
        ) as page:
            yield Served(page, TokenRegistry(file.with_name(API_TOKENS)))
