"""`tapewire run`: the trading agent."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import err, print_json, stop_on_signals
from agent.cli.typer_setup import option

if TYPE_CHECKING:
    from agent.config import Config
    from agent.live.daemon import Daemon
    from agent.store.database import Database
    from agent.store.runs import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    config: ConfigFile = None,
    new: Annotated[
        bool, option("--new", "Begin a new run even if an unfinished one could be continued.")
    ] = False,
    seconds: Annotated[
        float | None, option("--seconds", "Stop after so many seconds.", default="run on", min=0)
    ] = None,
    complete: Annotated[
        bool, option("--complete", "Complete the run when stopped, so that the next start begins a new one.")
    ] = False,
    json: Json = False,
) -> None:
    """Run the agent: trade live on paper or on a testnet until it is stopped (Ctrl-C, SIGTERM).

    `execution.mode` of the configuration chooses between paper and testnet. A restart continues the run.

    The log goes to standard error and contains the dashboard's address. Control the agent with `tapewire
    status`, `pause`, `resume`, `halt`, `kill`, `flatten` and `model use`. SIGUSR1, or a file KILL in
    live.folder, cancels all orders and halts until an operator resumes.
    """
    from agent.config import load
    from agent.live.log import configure
    from agent.live.output import guarded_output
    from agent.store.database import open_database

    settled = load(config)
    with guarded_output():
        configure(settled.log)
        with closing(open_database(settled.store.url)) as database:
            ended = asyncio.run(_run(settled, database, new=new, seconds=seconds, complete=complete))
    if json:
        print_json(
            {
                "run": ended.id,
                "status": ended.status,
                "events": ended.events,
                "decisions": ended.decisions,
                "final_equity": ended.final_equity,
            }
        )
    else:
        err.print(
            f"run {ended.id} {ended.status.value}: {ended.events:,} events, {ended.decisions:,} decisions, "
            f"equity {ended.final_equity:,.2f}; tapewire report {ended.id}; tapewire verify {ended.id}",
            soft_wrap=True,
        )


async def _run(
    config: Config, database: Database, *, new: bool, seconds: float | None, complete: bool
) -> Run:
    import structlog

    from agent.cli.dashboard_commands import serve_dashboard
    from agent.live.app import make_agent
    from agent.live.model_loader import model_loader
    from agent.live.venue_clock import venue_clock

    stop = stop_on_signals()
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    clock = await venue_clock(config.bybit.endpoint)
    load_model = model_loader(config, database, lazy=config.workers.enabled)
    daemon = make_agent(config, database, load_model=load_model, clock=clock, new=new)
    daemon.kill_switch.catch(signal.SIGUSR1)
    async with serve_dashboard(config, database, daemon) as page:
        if page is not None:
            structlog.get_logger(__name__).info("dashboard", url=page.url, announcement=page.announcement)
            if sys.stderr.isatty():  # the link logs in, so it must not be written to a log
                err.print(page.login_announcement(), soft_wrap=True)
        return await _with_service_manager(daemon, daemon.run(stop, complete=complete))


async def _with_service_manager(daemon: Daemon, running: Coroutine[Any, Any, Run]) -> Run:
    """Await `running`, and report the daemon's state to systemd if it started this process."""
    from agent.live.systemd import ServiceManager, notify_service_manager

    manager = ServiceManager()
    if not manager.present:
        return await running
    reporting = asyncio.create_task(notify_service_manager(manager, daemon))
    try:
        return await running
    finally:
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)
