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
    store: Annotated[
        str | None, typer.Option(help="Database URL; the configuration's where it is left out.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0 is any free one.")] = None,
    open_page: Annotated[
        bool,
        typer.Option(
            "--open", help="Open the browser, logged in: at the running agent's page if there is one."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Say the address as one JSON object.")] = False,
) -> None:
    """Look at recorded runs in the browser, move through them in time, read their reports. Nothing is written.

    The address that is printed logs one browser in, once, within ten minutes.
    """
    from agent.config import load
    from agent.store.database import open_database

    settled = load(config)
    if open_page and store is None and host is None and port is None and _open_running(settled, json=json):
        return
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    page = settled.dashboard.model_copy(update=changes)
    settled = settled.model_copy(update={"dashboard": page})
    with closing(open_database(store or settled.store.url, create=False)) as database:
        asyncio.run(_serve(settled, database, open_page=open_page, json=json))


def _open_running(config: Config, *, json: bool) -> bool:
    """Open the page of the agent that runs in `live.folder`; False if none runs or it serves no page."""
    from agent.core.errors import NotRunning, UsageError
    from agent.live.control_socket import Request, ask

    try:
        url = str(ask(config.live.folder, Request("dashboard"), timeout=10.0)["url"])
    except (NotRunning, UsageError):
        return False
    if json:
        print_json({"url": url.partition("?")[0], "login": url})
    else:
        out.print(f"dashboard of the running agent: {url}", highlight=False, soft_wrap=True, markup=False)
    _launch(str(ask(config.live.folder, Request("dashboard"), timeout=10.0)["url"]), config.live.folder)
    return True


def _launch(url: str, folder: Path) -> None:
    """Open `url` by way of a file that only this user can read: every user sees the arguments of a browser's process."""
    from html import escape

    from agent.system.private import write_private

    page = folder / "dashboard.html"
    write_private(page, f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(url)}">\n')
    typer.launch(page.absolute().as_uri())


async def _serve(config: Config, database: Database, *, open_page: bool, json: bool) -> None:
    from agent.cli.run import stop_on_signals
    from agent.dashboard.server import Dashboard

    stop = stop_on_signals()
    async with Dashboard(config.dashboard, database, token_file=config.dashboard_token_file()) as page:
        if json:
            print_json({"url": page.url, "login": page.login_url(), "store": database.name})
        else:
            out.print(
                f"{page.login_announcement()}; Ctrl-C ends it", highlight=False, soft_wrap=True, markup=False
            )
        if open_page:
            _launch(page.login_url(), config.live.folder)
        await stop.wait()


@asynccontextmanager
async def beside(config: Config, database: Database, daemon: Daemon) -> AsyncIterator[Dashboard | None]:
    """The page of a daemon that is about to run, in the same event loop; None where it is not wanted."""
    if not config.dashboard.enabled:
        yield None
        return
    from agent.dashboard.agent_adapter import DaemonAdapter
    from agent.dashboard.server import Dashboard

    agent = DaemonAdapter(daemon, config)
    async with Dashboard(config.dashboard, database, agent, token_file=config.dashboard_token_file()) as page:
        daemon.listeners.append(page.listener)
        daemon.login_link = page.login_url
        yield page
