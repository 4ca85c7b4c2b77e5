"""`tapewire run`: the agent."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.console import err, print_json

if TYPE_CHECKING:
    from agent.config import Config
    from agent.live.daemon import Daemon
    from agent.store.database import Database
    from agent.store.runs import Run


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("run")(run)


def run(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Begin a new run, even where an unfinished one could go on.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop by itself after so long.")] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Close the run when it is stopped: the next one begins anew.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output at the end.")
    ] = False,
) -> None:
    """Trade live, on paper or at a testnet (`execution.mode`), until SIGINT or SIGTERM.

    Started again, it goes on where it was; `--new` begins anew.

    The log goes to standard error, and names the address of the dashboard. Speak to it with `tapewire status`, `pause`, `resume`,
    `halt`, `kill`, `flatten` and `model use`. SIGUSR1, or a file KILL in live.folder, kills: all orders cancelled, halted until
    somebody resumes.
    """
    from agent.config import load
    from agent.live.log import configure
    from agent.live.output import guarded_output
    from agent.store.database import open_database

    settled = load(config)
    with guarded_output():
        configure(settled.log)
        with closing(open_database(settled.store.url)) as database:
            ended = asyncio.run(_live(settled, database, new=new, seconds=seconds, complete=complete))
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
            highlight=False,
            soft_wrap=True,
        )


async def _live(
    config: Config, database: Database, *, new: bool, seconds: float | None, complete: bool
) -> Run:
    import structlog

    from agent.cli.dashboard import beside
    from agent.live.app import make_agent
    from agent.live.model_loader import model_loader
    from agent.live.venue_clock import venue_clock

    stop = stop_on_signals()
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    clock = await venue_clock(config.bybit.endpoint)
    daemon = make_agent(
        config,
        database,
        load_model=model_loader(config.model, database, lazy=config.workers.enabled),
        clock=clock,
        new=new,
    )
    daemon.kill_switch.catch(signal.SIGUSR1)
    async with beside(config, database, daemon) as page:
        if page is not None:
            structlog.get_logger(__name__).info("dashboard", url=page.url, announcement=page.announcement)
            if sys.stderr.isatty():  # not into a log that others may read
                err.print(page.login_announcement(), highlight=False, soft_wrap=True)
        return await _managed(daemon, daemon.run(stop, complete=complete))


async def _managed(daemon: Daemon, life: Coroutine[Any, Any, Run]) -> Run:
    """Live, and tell a service manager of it where one started us."""
    from agent.live.systemd import ServiceManager, report

    manager = ServiceManager()
    if not manager.listens:
        return await life
    telling = asyncio.create_task(report(manager, daemon))
    try:
        return await life
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


def stop_on_signals() -> asyncio.Event:
    """Set by SIGINT and SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
