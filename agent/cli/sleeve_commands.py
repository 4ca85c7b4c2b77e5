"""`tapewire sleeve`: list, pause, resume, halt, flatten, add and remove the sleeves of the running agent."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.command_options import Json
from agent.cli.console import out, print_json, print_text
from agent.cli.control_commands import AgentOptions
from agent.cli.typer_setup import option
from agent.core.errors import UsageError

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the sleeve.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="List and change the strategies that share the running agent's account.", no_args_is_help=True
    )
    group.command("list")(list_sleeves)
    for command in (pause, resume, halt, flatten, add, remove):
        group.command(command.__name__)(command)
    app.add_typer(group, name="sleeve")


def list_sleeves(agent: AgentOptions, json: Json = False) -> None:
    """Show the sleeves of the running agent: capital, equity, positions and risk state."""
    import msgspec

    from agent.cli.status_output import show_sleeves
    from agent.live.interfaces.status import Status

    status = msgspec.convert(agent.connect().request("status"), Status)
    if json:
        print_json({"sleeves": status.sleeves, "idle": status.idle, "unassigned": status.unassigned})
    elif status.sleeves:
        show_sleeves(status)
    else:
        out.print("no sleeves: one strategy has the whole account")


def pause(name: Name, agent: AgentOptions, json: Json = False) -> None:
    """Open no new positions in one sleeve. Open ones are managed as before."""
    _send(agent, json, "pause", name)


def resume(name: Name, agent: AgentOptions, json: Json = False) -> None:
    """Let one sleeve trade again after a pause, a halt, a limit of its own, or an error of its strategy."""
    _send(agent, json, "resume", name)


def halt(name: Name, agent: AgentOptions, json: Json = False) -> None:
    """Cancel the entry orders of one sleeve and open nothing until it is resumed. Its stops stay."""
    _send(agent, json, "halt", name)


def flatten(name: Name, agent: AgentOptions, json: Json = False) -> None:
    """Close the positions of one sleeve. Its strategy may open new ones: `pause` first to stay flat."""
    _send(agent, json, "flatten", name)


def add(
    name: Name,
    agent: AgentOptions,
    strategy: Annotated[
        str,
        option(
            "--strategy",
            "Built-in, or your own: mine.py, mine.py:Class, package.module:Class.",
            "NAME",
            "the sleeve of the configuration that is not enabled",
        ),
    ] = "",
    share: Annotated[
        str, option("--share", "Fraction of account.initial_capital; it has to be idle.", "FRACTION")
    ] = "",
    settings: Annotated[
        list[str] | None, option("--set", "Set a parameter of the strategy; may be repeated.", "NAME=VALUE")
    ] = None,
    symbol: Annotated[
        list[str] | None,
        option("--symbol", "Trade only this symbol of the agent's; may be repeated.", "SYMBOL", "all"),
    ] = None,
    limit: Annotated[
        list[str] | None,
        option("--limit", "Set a risk limit; may be repeated.", "NAME=VALUE", "those of [risk]"),
    ] = None,
    json: Json = False,
) -> None:
    """Add a sleeve while the agent runs, on a share of the idle cash.

    It begins with the history that it would have at a start of the agent.
    """
    args: dict[str, str] = {}
    if strategy:
        if not share:
            raise UsageError("a new sleeve needs a share of the capital", hint="--share 0.2")
        args = {"strategy": _absolute(strategy), "share": share}
        args |= {"params": jsons.dumps(_pairs(settings, "--set"))}
        args |= {"risk": jsons.dumps(_pairs(limit, "--limit"))}
        args |= {"symbols": ",".join(symbol or ())}
    elif share or settings or symbol or limit:
        raise UsageError("a sleeve of the configuration is added as it is", hint="--strategy defines another")
    _send(agent, json, "add-sleeve", name, **args)


def remove(name: Name, agent: AgentOptions, json: Json = False) -> None:
    """Close the positions of one sleeve, then return its cash to the account's idle cash."""
    _send(agent, json, "remove-sleeve", name)


def _send(agent: AgentOptions, json: bool, do: str, name: str, **args: str) -> None:
    reply: dict[str, Any] = agent.connect().request(do, {"sleeve": name, **args})
    if json:
        print_json(reply)
        return
    state = reply["state"]
    print_text(f"{do}: done; sleeve {name} is {state}")
    if state == "leaving":
        print_text("it leaves once its positions are closed; tapewire sleeve list shows what is left")
    for symbol, detail in reply.get("short", ()):
        print_text(f"note: {symbol}: {detail}")


def _pairs(texts: list[str] | None, name: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or ()]
    for key, equals, _ in pairs:
        if not equals or not key:
            raise UsageError(f"{name} {key!r} sets nothing", hint="write NAME=VALUE")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _absolute(strategy: str) -> str:
    """Return the name of a strategy with an absolute path, if it is a file: the agent runs elsewhere."""
    file, colon, kind = strategy.partition(":")
    return f"{Path(file).expanduser().resolve()}{colon}{kind}" if file.endswith(".py") else strategy
