"""`tapewire status`, `pause`, `resume`, `halt`, `kill`, `flatten` and `model use`: words to the running agent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.console import out, print_json
from agent.errors import SafetyError, UsageError

if TYPE_CHECKING:
    from agent.live.status import Status

_Config = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; its live.folder has the socket.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_At = Annotated[
    str, typer.Option("--at", help="HOST:PORT of the agent's control port, instead of its Unix socket.", show_default=False)
]
_TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="For --at [control.token in live.folder].", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    for verb in (status, pause, resume, halt, kill, flatten):
        app.command(verb.__name__)(verb)
    group = typer.Typer(help="The model of the running agent.", no_args_is_help=True)
    group.command("use")(use)
    app.add_typer(group, name="model")


def status(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """How the running agent is."""
    import msgspec

    from agent.live.status import Status

    snapshot = msgspec.convert(_Agent(config, at, token_file).ask("status"), Status)
    if json:
        print_json(snapshot)
    else:
        _print(snapshot)


def pause(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """Open no new positions; those that are open are looked after."""
    _tell(_Agent(config, at, token_file), json, "pause")


def resume(
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
    confirm: Annotated[
        str, typer.Option(help='After a kill: "resume from kill". Asked for on a terminal.', show_default=False)
    ] = "",
) -> None:
    """Trade again after a pause or a halt; after a kill it has to be confirmed."""
    from agent.risk import KILL, RESUME_FROM_KILL

    agent = _Agent(config, at, token_file)
    if not confirm and sys.stdin.isatty() and not json:
        now = agent.ask("status")
        if now["risk_rule"] == KILL:
            held = ", ".join(f"{one['qty']} {one['symbol']}" for one in now["positions"] if one["value"]) or "nothing"
            out.print(f"killed by {now['risk_detail']}; the account holds {held}", highlight=False, markup=False)
            confirm = typer.prompt(f'Type "{RESUME_FROM_KILL}" to trade again')
            if confirm != RESUME_FROM_KILL:
                raise SafetyError("not resumed: that was something else")
    _tell(agent, json, "resume", **({"confirm": confirm} if confirm else {}))


def halt(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """Cancel all entries, and open nothing until `resume`. Stops and take-profits stay."""
    _tell(_Agent(config, at, token_file), json, "halt")


def kill(
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
    flatten: Annotated[bool, typer.Option("--flatten", help="Close all positions too.")] = False,
    reason: Annotated[str, typer.Option(help="For the journal.", show_default=False)] = "",
) -> None:
    """Cancel all working orders, stops too, and halt until somebody resumes and confirms it; a restart changes nothing.

    Without `--flatten` positions stay as they are, without protection. The same without this program: make the file KILL in
    live.folder, or send the agent SIGUSR1.
    """
    args = {"flatten": "true"} if flatten else {}
    _tell(_Agent(config, at, token_file), json, "kill", **args, **({"reason": reason} if reason else {}))


def flatten(config: _Config = None, json: _Json = False, at: _At = "", token_file: _TokenFile = None) -> None:
    """Close all positions. What comes next may open new ones: `pause` first to stay flat."""
    _tell(_Agent(config, at, token_file), json, "flatten")


def use(
    folder: Annotated[Path, typer.Argument(help="Made by `tapewire export`, or `starter`.")],
    config: _Config = None,
    json: _Json = False,
    at: _At = "",
    token_file: _TokenFile = None,
) -> None:
    """Let another model score from now on, without a restart."""
    from models.sentiment import STARTER

    chosen = STARTER if str(folder) == STARTER else str(folder.absolute())
    _tell(_Agent(config, at, token_file), json, "use-model", folder=chosen)


class _Agent:
    """The running agent: behind the Unix socket of the configuration, or behind a control port."""

    def __init__(self, config: Path | None, at: str, token_file: Path | None) -> None:
        from agent.config import load
        from agent.config_operations import split_address
        from agent.live.token import read_token

        settled = load(config)
        self._where: Path | tuple[str, int] = settled.live.folder
        self._token = ""
        if at:
            try:
                self._where = split_address(at)
            except ValueError as error:
                raise UsageError(f"--at: {error}") from None
            self._token = read_token(token_file or settled.token_file())

    def ask(self, do: str, **args: str) -> Any:
        """Its result."""
        from agent.live.control import Request, ask

        return ask(self._where, Request(do, args, self._token))


def _tell(agent: _Agent, json: bool, do: str, **args: str) -> None:
    answer = agent.ask(do, **args)
    if json:
        print_json(answer)
    else:
        model = f"; model {answer['model'][:12]} of {answer['folder']} scores" if "model" in answer else ""
        out.print(f"{do}: done; risk is {answer['risk']}{model}", highlight=False, soft_wrap=True)


def _print(status: Status) -> None:
    from rich.markup import escape
    from rich.table import Table

    from agent.clock import iso

    warming = ", warming up" if status.warming_up else ""
    out.print(
        f"run {status.run} (process {status.pid}), up {status.uptime_s:,.0f} s{warming}: {status.strategy} on {status.endpoint}",
        highlight=False,
    )
    why = f": {status.risk_detail}" if status.risk_detail else ""
    rule = f" by {status.risk_rule} since {iso(status.risk_since)}{why}" if status.risk_rule else ""
    out.print(f"equity {status.equity:,.2f}, cash {status.cash:,.2f}; risk {status.risk.value}{rule}", highlight=False)
    if not status.storage.writable:
        out.print(
            f"[bold red]nothing is traded[/]: {escape(status.storage.error)}; since {status.storage.failing_s:,.0f} s, "
            f"{status.storage.tries} tries",
            highlight=False,
        )
    positions = Table("symbol", "position", "mark", "value", "last bar", "open orders", box=None, header_style="dim")
    for one in status.positions:
        mark = "–" if one.mark is None else f"{one.mark:,.2f}"
        last = "–" if one.last_bar is None else iso(one.last_bar)
        last += " [red]stale[/]" if one.stale else ""
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
