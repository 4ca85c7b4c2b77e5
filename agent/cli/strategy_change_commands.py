"""`tapewire strategy use|set`: change the strategy of the running agent, and list what a run recorded."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from agent.cli.command_options import Json, parse_settings
from agent.cli.console import err, print_json, print_text
from agent.cli.control_commands import AgentOptions
from agent.cli.typer_setup import option
from agent.config import Config, load
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.store.database import Database

Sleeve = Annotated[str, option("--sleeve", "Sleeve whose strategy is changed.", "NAME")]


def use_strategy(
    strategy: Annotated[
        str,
        typer.Argument(
            metavar="STRATEGY",
            help="Built-in strategy, mine.py, mine.py:Class or package.module:Class. A file is read once.",
            show_default=False,
        ),
    ],
    agent: AgentOptions,
    settings: Annotated[
        list[str] | None, option("--set", "Set a parameter of the strategy; may be repeated.", "NAME=VALUE")
    ] = None,
    flatten: Annotated[bool, option("--flatten", "Close all positions. Otherwise they are kept.")] = False,
    sleeve: Sleeve = "",
    json: Json = False,
) -> None:
    """Let the running agent, or one of its sleeves, trade another strategy from now on, without a restart.

    The new strategy begins without state, its parameters at their defaults unless they are set. Working
    entries are cancelled; positions and their protection stay. If the strategy can't be loaded, the old one
    stays. A halt stays until `tapewire resume`.
    """
    args = {"strategy": _absolute(strategy)}
    if settings:
        args["params"] = msgspec.json.encode(parse_settings(settings, "--set ")).decode()
    _send(agent, json, "use-strategy", args | _options(flatten=flatten, sleeve=sleeve))


def set_strategy(
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE", help="Parameters to change.", show_default=False),
    ],
    agent: AgentOptions,
    flatten: Annotated[bool, option("--flatten", "Close all positions. Otherwise they are kept.")] = False,
    sleeve: Sleeve = "",
    json: Json = False,
) -> None:
    """Change parameters of the running agent's strategy; the others stay.

    The strategy is created again from the same source, so it begins without state.
    """
    args = {"params": msgspec.json.encode(parse_settings(values)).decode()}
    _send(agent, json, "set-strategy", args | _options(flatten=flatten, sleeve=sleeve))


def _options(*, flatten: bool, sleeve: str) -> dict[str, str]:
    return ({"flatten": "true"} if flatten else {}) | ({"sleeve": sleeve} if sleeve else {})


def _absolute(strategy: str) -> str:
    """Return the name with an absolute path if it is a file: the agent may run in another folder."""
    file, colon, class_name = strategy.partition(":")
    return f"{Path(file).expanduser().resolve()}{colon}{class_name}" if file.endswith(".py") else strategy


def _send(agent: AgentOptions, json: bool, do: str, args: dict[str, str]) -> None:
    reply = agent.connect().request(do, args)
    if json:
        print_json(reply)
        return
    source = f" {reply['source'][:12]}" if reply["source"] else ""
    params = ", ".join(f"{name}={value}" for name, value in reply["params"].items())
    where = f" in sleeve {reply['sleeve']}" if "sleeve" in reply else ""
    print_text(f"{reply['strategy']}{source} decides{where}{f' with {params}' if params else ''}", wrap=True)
    for symbol, detail in reply["short"]:
        print_text(f"note: {symbol}: {detail}", wrap=True)
    if reply["risk"] != "ACTIVE":
        print_text(f"risk is {reply['risk']}: it opens nothing until tapewire resume", wrap=True)
    elif reply.get("state", "ACTIVE") != "ACTIVE":
        resume = f"tapewire sleeve resume {reply['sleeve']}"
        print_text(f"the sleeve is {reply['state']}: it opens nothing until {resume}", wrap=True)


def list_versions(run: str, config: Path | None, json: bool) -> None:
    """Print the strategies of a run, the first one first."""
    with _store(load(config)) as database:
        rows = _versions(database, run)
    if json:
        print_json(rows)
        return
    from agent.system.clock import iso

    for row in rows:
        source = row["source"][:12] or "built in"
        name = f"{row['sleeve']}: " if row["sleeve"] else ""
        change = f", event {row['event']:,} by {row['by']}" if row["event"] else ""
        positions = ", positions closed" if row["flatten"] else ""
        print_text(f"{iso(row['since'])}  {name}{row['strategy']}  {source}{change}{positions}")
        values = ", ".join(f"{name}={value}" for name, value in row["params"].items())
        print_text(f"  {values or 'no parameters'}", wrap=True)
        if row["source"] and not row["stored"]:
            print_text("  its source is not in the store", wrap=True)


def show_version(run: str, beginning: str, config: Path | None, json: bool, *, trust: bool) -> None:
    """Print a stored source of a run. `beginning` is the beginning of its hash.

    Raises UsageError if the run has no such source, or several.
    """
    from agent.store.strategy_sources import find_source, trust_source

    settled = load(config)
    with _store(settled) as database:
        rows = _versions(database, run)
        hashes = {row["source"] for row in rows if row["source"] and row["source"].startswith(beginning)}
        if len(hashes) != 1:
            known = ", ".join(dict.fromkeys(row["source"][:12] for row in rows if row["source"])) or "none"
            what = "several sources" if hashes else "no source"
            raise UsageError(f"the run has {what} {beginning}", hint=f"its sources: {known}")
        found = find_source(database, hashes.pop())
    if found is None:
        raise UsageError(f"the source {beginning} is not in the store", hint="see its file")
    sha256, source = found
    if trust:
        path = trust_source(settled.live.folder, source)
        err.print(f"{path}: this machine runs the source from now on", markup=False, soft_wrap=True)
    text = source.decode(errors="backslashreplace")
    if json:
        print_json({"sha256": sha256, "source": text})
    else:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def _store(config: Config) -> closing[Database]:
    from agent.store.database import open_database

    return closing(open_database(config.store.url, create=False))


def _versions(database: Database, run: str) -> list[dict[str, Any]]:
    from agent.store.queries import find_run
    from agent.store.strategy_history import recorded_versions

    return [msgspec.to_builtins(one) for one in recorded_versions(database, find_run(database, run))]
