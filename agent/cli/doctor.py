"""`tapewire doctor`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.console import err, out, print_json

if TYPE_CHECKING:
    from agent.config import Config
    from agent.live.system_check import Check


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("doctor")(doctor)


def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read all of the store: indexes, references, and the journals' digests."),
    ] = False,
) -> None:
    """Look whether everything that the agent needs is there: store, model, exchange, clock and feeds."""
    from rich.table import Table
    from rich.text import Text

    from agent.config import load

    settled = load(config)
    with err.status("asking around …"):
        checks = asyncio.run(_examine(settled, full=full))
    healthy = all(check.ok for check in checks)
    if json:
        print_json({"ok": healthy, "checks": checks})
    else:
        table = Table("", "", "", "ms", box=None, show_header=False)
        for check in checks:
            mark = Text("ok", "green") if check.ok else Text("fails", "bold red")
            found = Text(check.found)
            if check.hint:
                found.append(f"\n→ {check.hint}", "yellow")
            table.add_row(mark, check.name, found, Text(f"{check.ms:,.0f} ms", "dim"))
        out.print(table)
    if not healthy:
        raise typer.Exit(1)


async def _examine(config: Config, *, full: bool) -> list[Check]:
    """In the venue's time, as `run` would."""
    from agent.live.system_check import examine
    from agent.live.venue_clock import venue_clock

    return await examine(config, await venue_clock(config.bybit.endpoint), full=full)
