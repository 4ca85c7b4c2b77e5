"""`tapewire status`, `pause`, `resume`, `halt`, `flatten` and `model use`: words to the running agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.console import out, print_json

if TYPE_CHECKING:
    from agent.live.status import Status

_Config = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; its live.folder has the socket.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    app.command("status")(status)
    app.command("pause")(pause)
    app.command("resume")(resume)
    app.command("halt")(halt)
    app.command("flatten")(flatten)
    group = typer.Typer(help="The model of the running agent.", no_args_is_help=True)
    group.command("use")(use)
    app.add_typer(group, name="model")


def status(config: _Config = None, json: _Json = False) -> None:
    """How the running agent is."""
    import msgspec

    from agent.live.status import Status

    snapshot = msgspec.convert(_ask(config, "status"), Status)
    if json:
        print_json(snapshot)
    else:
        _print(snapshot)


def pause(config: _Config = None, json: _Json = False) -> None:
    """Open no new positions; those that are open are looked after."""
    _tell(config, json, "pause")


def resume(config: _Config = None, json: _Json = False) -> None:
    """Trade again after a pause or a halt."""
    _tell(config, json, "resume")


def halt(config: _Config = None, json: _Json = False) -> None:
    """Cancel all entries, and open nothing until `resume`."""
    _tell(config, json, "halt")


def flatten(config: _Config = None, json: _Json = False) -> None:
    """Close all positions. What comes next may open new ones: `pause` first to stay flat."""
    _tell(config, json, "flatten")


def use(
    folder: Annotated[Path, typer.Argument(help="Made by `tapewire export`, or `starter`.")], config: _Config = None, json: _Json = False
) -> None:  # fmt: skip
    """Let another model score from now on, without a restart."""
    from models.sentiment import STARTER

    _tell(config, json, "use-model", folder=STARTER if str(folder) == STARTER else str(folder.absolute()))


def _ask(config: Path | None, do: str, **args: str) -> Any:
    from agent.config import load
    from agent.live.control import Request, ask

    return ask(load(config).live.folder, Request(do, args))


def _tell(config: Path | None, json: bool, do: str, **args: str) -> None:
    answer = _ask(config, do, **args)
    if json:
        print_json(answer)
    else:
        model = f"; model {answer['model'][:12]} of {answer['folder']} scores" if "model" in answer else ""
        out.print(f"{do}: done; risk is {answer['risk']}{model}", highlight=False, soft_wrap=True)


def _print(status: Status) -> None:
    from rich.table import Table

    from agent.clock import iso

    warming = ", warming up" if status.warming_up else ""
    out.print(
        f"run {status.run} (process {status.pid}), up {status.uptime_s:,.0f} s{warming}: {status.strategy} on {status.endpoint}",
        highlight=False,
    )
    rule = f" by {status.risk_rule} since {iso(status.risk_since)}" if status.risk_rule else ""
    out.print(f"equity {status.equity:,.2f}, cash {status.cash:,.2f}; risk {status.risk.value}{rule}", highlight=False)
    positions = Table("symbol", "position", "mark", "value", "last bar", "open orders", box=None, header_style="dim")
    for one in status.positions:
        mark = "–" if one.mark is None else f"{one.mark:,.2f}"
        last = "–" if one.last_bar is None else iso(one.last_bar)
        positions.add_row(one.symbol, str(one.qty), mark, f"{one.value:,.2f}", last, str(one.open_orders))
    out.print(positions)
    sources = Table("source", "state", "messages", "errors", "restarts", "last error", box=None, header_style="dim")
    for source in status.producers:
        figures = f"{source['messages']:,}", f"{source['errors']:,}", f"{source['failures']:,}"
        sources.add_row(source["name"], source["state"], *figures, source["last_error"][:80])
    for feed in status.feeds:
        figures = f"{feed.messages:,}", f"{feed.errors:,}", ""
        sources.add_row(f"  {feed.name}", feed.state, *figures, feed.last_error[:80])
    out.print(sources)
    latencies = Table("handled", "n", "p50 ms", "p99 ms", box=None, header_style="dim")
    for kind, latency in status.latencies.items():
        latencies.add_row(kind, f"{latency['n']:,.0f}", f"{latency['p50_ms']:.2f}", f"{latency['p99_ms']:.2f}")
    out.print(latencies)
    queue = status.queue
    out.print(
        f"queue: {queue.depth} waiting, {queue.high_water} at most; "
        f"{sum(kind.coalesced for kind in queue.kinds.values()):,} open bars coalesced, "
        f"{sum(kind.dropped for kind in queue.kinds.values()):,} headlines dropped; "
        f"{status.events:,} events, {status.decisions:,} decisions",
        highlight=False,
    )
    for line in status.recent[-10:]:
        out.print(f"  {iso(line['at'])}  {line['what']}", highlight=False, markup=False, soft_wrap=True)
