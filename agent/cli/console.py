"""What every verb shares: the consoles, JSON output and the door through which errors leave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console

from agent.errors import TapewireError

out = Console()
"""For results: standard output."""

err = Console(stderr=True)
"""For progress and errors: standard error, so that `--json` stays readable by a program."""


def print_json(value: Any) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(msgspec.json.Encoder(decimal_format="number").encode(value).decode() + "\n")
    sys.stdout.flush()


def run_guarded(work: Callable[[], None]) -> int:
    """Run `work`; an expected error becomes one clear line on standard error and its exit code."""
    try:
        work()
    except TapewireError as error:
        err.print(f"[bold red]error[/]: {_escape(str(error))}", soft_wrap=True, highlight=False)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away: nothing to say to it
        return 0
    except KeyboardInterrupt:
        err.print("interrupted")
        return 130
    return 0


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split("\n")))
