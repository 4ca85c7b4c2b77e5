"""What every verb shares: the consoles, JSON output and the exit through which errors leave.

Texts of any origin reach a terminal from here, so neither console nor JSON passes on control characters.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from agent.core.errors import TapewireError
from agent.core.masking import mask
from agent.data.text import escape_unprintable, printable


class SafeConsole(Console):
    """A console that writes no control character but its own: a text can't move the cursor, set a title or hide a line."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's, each piece of text made printable."""
        for segment in super().render(renderable, options):
            text = segment.text
            clean = text if segment.control or (text.isascii() and text.isprintable()) else printable(text)
            yield segment if clean == text else Segment(clean, segment.style)


out = SafeConsole()
"""For results: standard output."""

err = SafeConsole(stderr=True)
"""For progress and errors: standard error, so that `--json` stays readable by a program."""


def print_json(value: Any) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(
        escape_unprintable(msgspec.json.Encoder(decimal_format="number").encode(value).decode()) + "\n"
    )
    sys.stdout.flush()


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`: the traceback, without secrets and control characters."""
    sys.stderr.write(mask(printable("".join(traceback.format_exception(kind, error, trace)))))


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
