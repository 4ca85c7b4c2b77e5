"""`tapewire dashboard`: recorded runs in the browser. The running agent serves the same page itself, with what is live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.console import out, print_json

if TYPE_CHECKING:
    from agent.config import Config
    from agent.dashboard.server import Dashboard
    from agent.live.daemon import Daemon
    from agent.store.database import Database


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("dashboard")(dashboard)


def dashboard(
    store: Annotated[str | None, typer.Option(help="Database URL; the configuration's where it is left out.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; all but this machine's own need the token.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0 is any free one.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Say the address as one JSON object.")] = False,
) -> None:
    """Look at recorded runs in the browser, move through them in time, read their reports. Nothing is written."""
    from agent.config import load
    from agent.store.database import open_database

    settled = load(config)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    page = settled.dashboard.model_copy(update=changes)
    settled = settled.model_copy(update={"dashboard": page})
    with closing(open_database(store or settled.store.url, create=False)) as database:
        asyncio.run(_serve(settled, database, open_page=open_page, json=json))


async def _serve(config: Config, database: Database, *, open_page: bool, json: bool) -> None:
    from agent.cli.run import stop_on_signals
    from agent.dashboard.server import Dashboard

    stop = stop_on_signals()
    async with Dashboard(config.dashboard, database) as page:
        if json:
            print_json({"url": page.url, "store": database.name})
        else:
            out.print(f"{page.announcement}; Ctrl-C ends it", highlight=False, soft_wrap=True)
        if open_page:
            typer.launch(page.url)
        await stop.wait()


@asynccontextmanager
async def beside(config: Config, database: Database, daemon: Daemon) -> AsyncIterator[Dashboard | None]:
    """The page of a daemon that is about to run, in the same event loop; None where it is not wanted."""
    if not config.dashboard.enabled:
        yield None
        return
    from agent.dashboard.live import LiveAgent
    from agent.dashboard.server import Dashboard

    async with Dashboard(config.dashboard, database, LiveAgent(daemon, config)) as page:
        yield page
