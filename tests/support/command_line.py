"""Runs `tapewire` in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner

from agent.cli.main import build


def run_command(arguments: Sequence[object], **options: Any) -> Result:
    """Run `tapewire ARGUMENTS…` and return its exit code and output; `options` are those of click's runner.

    A crash is in the result's `exception`; the tests of the command line itself start `agent.cli.main.main`.
    """
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build(words[0]), words, **options)


@cache
def whole_command() -> Any:
    """Return the command with all its groups and commands, set up once per process."""
    return typer.main.get_command(build())
