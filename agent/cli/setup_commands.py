"""`tapewire config`, `doctor` and `notify`: check the configuration and what it refers to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import err, out, print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.config import Config, load
from agent.core.errors import ConfigError, VenueError
from agent.core.masking import masked
from agent.system.fitted_table import Column

if TYPE_CHECKING:
    from agent.live.system_check import CheckResult

_ConfigArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help="Configuration file.", show_default="./config.toml, else the packaged one"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands and groups."""
    app.command("doctor")(doctor)
    config = typer.Typer(help="Check or print the configuration.", no_args_is_help=True)
    config.command("check")(check_config)
    config.command("show")(show_config)
    app.add_typer(config, name="config")
    notify = typer.Typer(help="Test the notifications.", no_args_is_help=True)
    notify.command("test")(send_test)
    app.add_typer(notify, name="notify")


def check_config(path: _ConfigArgument = None) -> None:
    """Check that a configuration is valid and that its strategy loads."""
    from agent.replay.open_engine import params_of

    config = load(path)
    config.check_live()
    params_of(config)
    print_text(f"{path or 'the configuration'} is valid")


def show_config(path: _ConfigArgument = None) -> None:
    """Print the effective configuration as JSON, with defaults; secrets in URLs are masked."""
    print_json(masked(load(path).model_dump(mode="json")))


def doctor(
    config: ConfigFile = None,
    json: Json = False,
    full: Annotated[
        bool, option("--full", "Check the whole store: indexes, references and digests of the journals.")
    ] = False,
) -> None:
    """Check what the agent needs: store, model, exchange, clock and feeds. Exit code 1 if a check fails."""
    from rich.text import Text

    settled = load(config)
    with err.status("checking …"):
        checks = asyncio.run(_examine(settled, full=full))
    healthy = all(check.ok for check in checks)
    if json:
        print_json({"ok": healthy, "checks": checks})
    else:
        rows = []
        for check in checks:
            mark = Text("ok", "green") if check.ok else Text("fails", "bold red")
            found = Text(check.found)
            if check.hint:
                found.append(f"\n→ {check.hint}", "yellow")
            rows.append((mark, Text(check.name), found, Text(f"{check.ms:,.0f} ms", "dim")))
        columns = (Column(""), Column("check"), Column("found", wraps=True), Column("took", right=True))
        print_columns(columns, rows)
    if not healthy:
        raise typer.Exit(1)


async def _examine(config: Config, *, full: bool) -> list[CheckResult]:
    from agent.live.system_check import run_checks
    from agent.live.venue_clock import venue_clock

    return await run_checks(config, await venue_clock(config.bybit.endpoint), full=full)


def send_test(config: ConfigFile = None, json: Json = False) -> None:
    """Send a test message to every configured address. Exit code 1 if one fails."""
    from agent.live.services.notifications.apprise_sender import URLS, AppriseSender, notify_urls
    from agent.live.services.notifications.batcher import Notification

    settled = load(config).notify
    urls = notify_urls(settled)
    if not urls:
        raise ConfigError("no address is configured", hint=f"set {URLS}, or notify.urls_file of mode 0600")
    courier = AppriseSender(urls, settled.timeout / 1000)
    done = courier.send(
        Notification("Tapewire: a test", "Notifications of this agent arrive here.", urgent=False)
    )
    courier.close()
    if json:
        print_json({one.service: one.delivered for one in done})
    else:
        for one in done:
            result = "delivered" if one.delivered else "[red]not delivered[/]"
            out.print(f"{one.service}: {result}")
    if failed := [one.service for one in done if not one.delivered]:
        raise VenueError(
            f"not delivered: {', '.join(failed)}", hint="check the address and that the service is up"
        )
