"""`tapewire strategy` and `tapewire init`: list, describe, begin and change strategies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from agent.cli.command_options import ConfigFile
from agent.cli.console import err, out, print_columns, print_json, print_text
from agent.cli.typer_setup import option
from agent.core.errors import UsageError
from agent.system.fitted_table import Column

if TYPE_CHECKING:
    from strategies.description import Parameter, StrategyDescription

_JsonText = Annotated[bool, option("--json", "Print JSON on standard output.")]


_OfRun = Annotated[str, option("--run", "A recorded run, or latest.", "RUN")]


def register(app: typer.Typer) -> None:
    """Add the group and the command."""
    from agent.cli.strategy_change_commands import set_strategy, use_strategy

    group = typer.Typer(help="List, describe, begin and change strategies.", no_args_is_help=True)
    group.command("list")(list_strategies)
    group.command("show")(show_strategy)
    group.command("new")(new_strategy)
    group.command("use")(use_strategy)
    group.command("set")(set_strategy)
    app.add_typer(group, name="strategy")
    app.command("init")(init_project)


def list_strategies(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to look through.", show_default="working folder")
    ] = Path(),
    run: _OfRun = "",
    config: ConfigFile = None,
    json: _JsonText = False,
) -> None:
    """List the built-in strategies, and those in the folder and the folders directly inside it.

    Files of the folder are read, not run: their parameters are shown as the source writes them. With --run:
    the strategies that decided in a run, with times, hashes and parameters.
    """
    if run:
        from agent.cli.strategy_change_commands import list_versions

        list_versions(run, config, json)
        return
    from strategies import BUILT_IN, strategy_class
    from strategies.description import describe_strategy
    from strategies.source_scan import scan_folder

    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    rows: list[dict[str, Any]] = []
    for name in BUILT_IN:
        found = describe_strategy(name, strategy_class(name))
        parameters = {one.name: one.text(one.default) for one in found.parameters}
        rows.append(_row(name, found.doc.partition("\n")[0], found.reads, parameters, built_in=True))
    scanned = scan_folder(folder)
    rows += [
        _row(item.name, item.doc, item.reads, item.parameters, built_in=False) for item in scanned.strategies
    ]
    for note in scanned.notes:
        err.print(f"note: {note}", markup=False, soft_wrap=True)
    if json:
        print_json(rows)
        return
    for row in rows:
        print_text(str(row["name"]) + (" (built in)" if row["built_in"] else ""), style="bold")
        if row["doc"]:
            print_text(f"  {row['doc']}", wrap=True)
        print_text(f"  reads {', '.join(row['reads']) or 'nothing'}", wrap=True)
        values = ", ".join(f"{key}={value}" if value else key for key, value in row["parameters"].items())
        print_text(f"  parameters: {values or 'none'}", wrap=True)
    if not scanned.strategies:
        print_text(f"no strategy in {folder.resolve()}; tapewire strategy new mine.py writes one", wrap=True)


def _row(
    name: str, doc: str, reads: tuple[str, ...], parameters: dict[str, str], *, built_in: bool
) -> dict[str, Any]:
    return {"name": name, "built_in": built_in, "doc": doc, "reads": reads, "parameters": parameters}


def show_strategy(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Built-in strategy, mine.py, mine.py:Class or package.module:Class; with --run a hash.",
        ),
    ],
    run: _OfRun = "",
    config: ConfigFile = None,
    trust: Annotated[
        bool, option("--trust", "With --run: let this machine run the source, for verify and resumption.")
    ] = False,
    json: _JsonText = False,
) -> None:
    """Describe a strategy: its docstring, what it reads, and its parameters with their bounds.

    With --run: print a source that the run used, named by the beginning of its SHA-256.
    """
    if run:
        from agent.cli.strategy_change_commands import show_version

        show_version(run, name, config, json, trust=trust)
        return
    from strategies import strategy_class
    from strategies.description import describe_strategy

    found = describe_strategy(name, strategy_class(name))
    if json:
        print_json(msgspec.to_builtins(found))
    else:
        _print_description(found)


def _print_description(found: StrategyDescription) -> None:
    print_text(found.name, style="bold")
    for line in found.doc.splitlines():
        print_text(f"  {line}", wrap=True)
    print_text(f"file       {found.file}")
    print_text(
        f"reads      {', '.join(found.reads) or 'nothing'} ({', '.join(found.callbacks) or 'no method'})"
    )
    print_text(f"intervals  {', '.join(found.intervals) or 'that of the run'}")
    warm_up = ", ".join(f"{bars} bars of {interval}" for interval, bars in found.warm_up.items())
    if not warm_up and (found.intervals or "on_bar" in found.callbacks):
        warm_up = "found by itself: what market.bars and the indicators need"
    print_text(f"warm-up    {warm_up or 'none'}")
    if not found.parameters:
        print_text("no parameters")
        return
    out.print()
    columns = (*map(Column, ("parameter", "type", "default", "bounds")), Column("meaning", wraps=True))
    rows = [(one.name, one.type, _default(one), one.bounds, one.description) for one in found.parameters]
    print_columns(columns, rows)


def _default(parameter: Parameter) -> str:
    return "required" if parameter.required else parameter.text(parameter.default)


def new_strategy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="File to write, such as mine.py or momentum.")],
    template: Annotated[
        str, option("--template", "Its beginning: sma (prices), news (headlines) or empty.", "NAME")
    ] = "sma",
    json: _JsonText = False,
) -> None:
    """Write a commented strategy file that runs at once. An existing file is not overwritten."""
    from agent.cli.project import write_strategy

    file, class_name = write_strategy(Path(name), template)
    command = f"tapewire backtest --strategy {file}"
    if json:
        print_json({"file": str(file), "class": class_name, "next": command})
    else:
        print_text(f"{file}: strategy {class_name}")
        print_text(command)


def init_project(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to make.", show_default="working folder")
    ] = Path(),
    template: Annotated[
        str, option("--template", "Its strategy: sma (prices), news (headlines) or empty.", "NAME")
    ] = "sma",
    json: _JsonText = False,
) -> None:
    """Make a project folder: configuration, strategy, notebook, README and .gitignore.

    If one of the files exists, nothing is written.
    """
    from agent.cli.project import next_commands, write_project

    files = write_project(folder, template)
    commands = next_commands(folder)
    if json:
        print_json({"files": [str(file) for file in files], "next": commands})
        return
    for file in files:
        print_text(str(file))
    print_text("next:")
    for command in commands:
        print_text(f"  {command}")
