"""`tapewire dashboard`: recorded runs in the browser. A running agent serves the same page with live data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile
from agent.cli.console import print_json, print_text
from agent.cli.typer_setup import option

if TYPE_CHECKING:
    from agent.config import Config
    from agent.dashboard.server import Dashboard
    from agent.jobs.job_queue import JobQueue
    from agent.live.daemon import Daemon
    from agent.store.database import Database


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard")(dashboard)


def dashboard(
    store: Annotated[str | None, option("--store", "Database of the runs.", "URL", "store.url")] = None,
    config: ConfigFile = None,
    host: Annotated[
        str | None, option("--host", "Address to listen on.", "ADDRESS", "dashboard.host")
    ] = None,
    port: Annotated[
        int | None,
        option("--port", "Port to listen on; 0: any free one.", default="dashboard.port", min=0, max=65_535),
    ] = None,
    open_page: Annotated[
        bool,
        option("--open", "Open the page in the browser, logged in; the running agent's page if one runs."),
    ] = False,
    json: Annotated[bool, option("--json", "Print the address as one JSON object.")] = False,
) -> None:
    """Show recorded runs in the browser: charts, decisions and reports, at any time of the run. Read-only.

    The printed link logs in one browser, once, within ten minutes.
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
    """Open the page of the agent in `live.folder`; return False if none runs or it serves no page."""
    from agent.core.errors import NotRunning, UsageError
    from agent.live.control_socket import ControlRequest, send_request

    try:
        url = str(send_request(config.live.folder, ControlRequest("dashboard"), timeout=10.0)["url"])
    except (NotRunning, UsageError):
        return False
    if json:
        print_json({"url": url.partition("?")[0], "login": url})
    else:
        print_text(f"dashboard of the running agent: {url}")
    _launch(
        str(send_request(config.live.folder, ControlRequest("dashboard"), timeout=10.0)["url"]),
        config.live.folder,
    )
    return True


def _launch(url: str, folder: Path) -> None:
    """Open `url` through a file that only this user can read: all users see a process's arguments."""
    from html import escape

    from agent.system.secret import write_private

    page = folder / "dashboard.html"
    write_private(page, f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(url)}">\n')
    typer.launch(page.absolute().as_uri())


async def _serve(config: Config, database: Database, *, open_page: bool, json: bool) -> None:
    from agent.cli.console import stop_on_signals
    from agent.dashboard.server import Dashboard

    stop = stop_on_signals()
    token, folder = config.dashboard_token_file(), config.live.folder
    async with Dashboard(
        config.dashboard,
        database,
        token_file=token,
        live_folder=folder,
        api=config.api,
        agents=config.agents,
        jobs=open_jobs(config, database),
    ) as page:
        if json:
            print_json({"url": page.url, "login": page.login_url(), "store": database.name})
        else:
            print_text(f"{page.login_announcement()}; Ctrl-C ends it")
        if open_page:
            _launch(page.login_url(), config.live.folder)
        await stop.wait()


def open_jobs(config: Config, database: Database) -> JobQueue | str:
    """Return the jobs of a server whose runs are in `database`, or why it runs none."""
    from agent.core.errors import TapewireError
    from agent.jobs.job_queue import JobQueue

    if not config.jobs.enabled:
        return "jobs are switched off at this server"
    if database.is_sqlite and database.file is None:
        return "the store is in memory, where another process can't record a run"
    url = database.engine.url.render_as_string(hide_password=False)
    store = config.store.model_copy(update={"url": url})
    try:
        return JobQueue(config.model_copy(update={"store": store}))
    except TapewireError as error:
        return str(error)


@asynccontextmanager
async def serve_dashboard(
    config: Config, database: Database, daemon: Daemon
) -> AsyncIterator[Dashboard | None]:
    """Serve the page of a daemon in its own event loop; yields None if the dashboard is disabled."""
    if not config.dashboard.enabled:
        yield None
        return
    from agent.dashboard.agent_adapter import DaemonAdapter
    from agent.dashboard.server import Dashboard

    agent = DaemonAdapter(daemon, config)
    token, folder = config.dashboard_token_file(), config.live.folder
    async with Dashboard(
        config.dashboard,
        database,
        agent,
        token_file=token,
        live_folder=folder,
        api=config.api,
        agents=config.agents,
        jobs=open_jobs(config, database),
    ) as page:
        daemon.listeners.append(page.listener)
        daemon.login_link = page.login_url
        yield page
