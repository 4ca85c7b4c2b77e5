"""`tapewire`: the command line. Commands import heavy libraries themselves, so that help appears at once."""

from __future__ import annotations

import importlib
import os
import sys

import typer
from typer.models import CommandInfo, TyperInfo

from agent import __version__
from agent.cli.command_index import MODULES, PANELS
from agent.cli.console import report_crash, run_guarded
from agent.cli.typer_setup import PlainGroup, set_up_commands


def build(only: str = "") -> typer.Typer:
    """Return the command line, or its part that serves the command or group `only` if there is one.

    To import and set up all commands takes longer than most of them run.
    """
    wanted = MODULES.get(only)
    parts = _registered({wanted} if wanted else set(MODULES.values()))
    if wanted:
        parts = [(panel, entry) for panel, entry in parts if entry.name == only]
    return _assemble(parts)


def build_listing() -> typer.Typer:
    """Return a command line whose commands have only names and summaries: enough for help and for errors."""
    part = typer.Typer()
    for modules in PANELS.values():
        for commands in modules.values():
            for name, summary in commands.items():
                part.command(name, help=summary)(_nothing)
    panel_of = {
        name: panel for panel, modules in PANELS.items() for commands in modules.values() for name in commands
    }
    return _assemble([(panel_of[str(entry.name)], entry) for entry in part.registered_commands])


def _nothing() -> None:
    """Stand for a command that is only listed."""


def _registered(wanted: set[str]) -> list[tuple[str, CommandInfo | TyperInfo]]:
    """Import some modules of commands; return their commands and groups, each with its panel."""
    found: list[tuple[str, CommandInfo | TyperInfo]] = []
    for panel, modules in PANELS.items():
        for module in modules:
            if module in wanted:
                part = typer.Typer()
                importlib.import_module(f"agent.cli.{module}_commands").register(part)
                found += [(panel, command) for command in part.registered_commands]
                found += [(panel, group) for group in part.registered_groups]
    return found


def _assemble(parts: list[tuple[str, CommandInfo | TyperInfo]]) -> typer.Typer:
    order: list[str] = []

    class Root(PlainGroup):
        def list_commands(self, ctx: object) -> list[str]:
            return order  # Typer's order has all groups after the commands

    app = typer.Typer(
        name="tapewire",
        cls=Root,
        help="Trade on live prices and news, on paper or on Bybit's testnet. Record, replay and judge runs.",
        epilog="New here? `tapewire demo` shows everything at work; `tapewire backtest` replays sample data.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            typer.echo(f"tapewire {__version__}")
            raise typer.Exit

    for panel, entry in parts:
        entry.rich_help_panel = panel
        order.append(str(entry.name))
        if isinstance(entry, CommandInfo):
            app.registered_commands.append(entry)
        else:
            app.registered_groups.append(entry)
    set_up_commands(app)
    return app


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 usage or configuration, 3 safety."""
    os.umask(0o077)  # files of this program (store, sockets, log, reports) are readable by its user only
    sys.excepthook = report_crash
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    # `tapewire -- COMMAND`, and a shell that completes words, need every command
    needs_all = command == "--" or any(name.endswith("_COMPLETE") for name in os.environ)
    app = build(command) if command in MODULES or needs_all else build_listing()
    sys.exit(run_guarded(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
