"""`tapewire`: the command line. Commands import heavy libraries themselves, so that help appears at once."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import typer
from typer.models import CommandInfo, TyperInfo

from agent import __version__
from agent.cli.console import report_crash, run_guarded
from agent.cli.typer_setup import PlainGroup, set_up_commands

PANELS: Final[dict[str, tuple[str, ...]]] = {
    "Live": ("demo", "run", "top", "control", "sleeve", "dashboard", "token", "mcp"),
    "Research": ("strategy", "backtest", "sweep", "walkforward", "tune", "check", "costs"),
    "Recorded runs": ("runs", "report", "events", "twin", "diff", "explain", "what_if", "bundle", "tries"),
    "Models": ("train", "model", "calibrate"),
    "Data": ("data", "news"),
    "Operations": ("setup", "db", "worker", "sandbox"),
}
"""Panel of the help -> modules of its commands: X is `agent.cli.X_commands`, which has a `register(app)`."""


def build(only: str = "") -> typer.Typer:
    """Return the command line, or its part that serves the command or group `only` if there is one.

    To set up all commands takes longer than most of them run.
    """
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

    for panel, modules in PANELS.items():
        for module in modules:
            part = typer.Typer()
            importlib.import_module(f"agent.cli.{module}_commands").register(part)
            entries: list[CommandInfo | TyperInfo] = [*part.registered_commands, *part.registered_groups]
            for entry in entries:
                entry.rich_help_panel = panel
                order.append(str(entry.name))
            app.registered_commands += part.registered_commands
            app.registered_groups += part.registered_groups
    if only in order:
        app.registered_commands = [entry for entry in app.registered_commands if entry.name == only]
        app.registered_groups = [entry for entry in app.registered_groups if entry.name == only]
        order[:] = [only]
    set_up_commands(app)
    return app


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 usage or configuration, 3 safety."""
    os.umask(0o077)  # files of this program (store, sockets, log, reports) are readable by its user only
    sys.excepthook = report_crash
    app = build(sys.argv[1] if len(sys.argv) > 1 else "")
    sys.exit(run_guarded(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
