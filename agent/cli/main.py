"""`tapewire`: the verbs, gathered. Heavy libraries are imported inside the verbs that need them, so that help is instant."""

from __future__ import annotations

import importlib
import os
import sys

import typer

from agent import __version__
from agent.cli.console import report_crash, run_guarded
from agent.cli.help import literal_help

VERB_GROUPS: tuple[str, ...] = (
    "backtest",
    "check",
    "compare",
    "config",
    "control",
    "dashboard",
    "data",
    "db",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "notify",
    "report",
    "run",
    "sandbox",
    "score",
    "slippage",
    "train",
    "train_fusion",
    "tune",
    "walkforward",
    "worker",
)
"""Modules of `agent.cli` that have a `register(app)`."""


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="tapewire",
        help="Trade the tape on what the wire says. On paper.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            typer.echo(f"tapewire {__version__}")
            raise typer.Exit

    for group in VERB_GROUPS:
        importlib.import_module(f"agent.cli.{group}").register(app)
    literal_help(app)
    return app


def main() -> None:
    """Entry point: exit codes 0 fine, 1 the work failed, 2 wrong usage or configuration, 3 refused for safety."""
    os.umask(0o077)  # what this program makes (store, sockets, log, reports) is for its user alone
    sys.excepthook = report_crash
    app = build()
    sys.exit(run_guarded(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
