"""What all commands share: consoles, JSON output, progress bars, and the exit code of an error.

Texts from outside (headlines, file names, errors of servers) reach the terminal through this module, so
consoles and JSON remove control characters.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from agent.core.errors import TapewireError
from agent.core.masking import mask
from agent.data.text import escape_unprintable, printable

if TYPE_CHECKING:  # imported when they are needed, so that help appears at once
    import asyncio

    from rich.progress import ProgressColumn, Task
    from rich.status import Status

    from agent.system.fitted_table import Cell, Column

_FREE_WIDTH: Final = 1_000  # columns of a table that doesn't reach a terminal

_COUNTED: Final = 10_000_000  # a total beyond it is a time, and not shown as a count


class CommandListener(Protocol):
    """Whoever runs a command in this process and reads its progress: the worker of a job."""

    def progressed(self, line: str, share: float | None) -> None:
        """Take note of what is being done, and of the share of it that is done; None: unknown."""
        ...

    def failed(self, error: TapewireError) -> None:
        """Take note of the error that ends the command."""
        ...


_listeners: list[CommandListener] = []


def listen(listener: CommandListener) -> None:
    """Tell `listener` of progress and of the error of the command that runs in this process."""
    _listeners.append(listener)


class SafeConsole(Console):
    """A console that removes control characters, so that no text can move the cursor or hide a line."""

    def status(self, status: RenderableType, **options: Any) -> Status:
        for listener in _listeners:
            listener.progressed(str(status), None)
        return super().status(status, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            clean = text if segment.control or (text.isascii() and text.isprintable()) else printable(text)
            yield segment if clean == text else Segment(clean, segment.style)


out = SafeConsole(highlight=False)
"""Standard output, for results."""

err = SafeConsole(stderr=True, highlight=False)
"""Standard error, for progress and errors, so that standard output holds only the JSON of `--json`."""


def print_text(text: str, style: str | None = None, *, wrap: bool = False) -> None:
    """Print a line on standard output, its brackets literally; break it between words if `wrap` is set."""
    out.print(text, style=style, markup=False, soft_wrap=not wrap)


def print_columns(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, title: str = "", gap: int = 2
) -> None:
    """Print a table that fits the terminal, as `fitted_table` describes; no heading and no figure is cut.

    Into a file or pipe it gets as wide as it is, unless COLUMNS is set.
    """
    from agent.system.fitted_table import fitted_table

    width = out.width if out.is_terminal or os.environ.get("COLUMNS", "").isdigit() else _FREE_WIDTH
    if title:
        print_text(title, style="italic", wrap=True)
    console = out if out.is_terminal else SafeConsole(highlight=False, width=width)
    console.print(fitted_table(columns, rows, width, gap=gap))


def print_json(value: Any) -> None:
    """Print one JSON object on one line of standard output."""
    import msgspec

    sys.stdout.write(
        escape_unprintable(msgspec.json.Encoder(decimal_format="number").encode(value).decode()) + "\n"
    )
    sys.stdout.flush()


@contextmanager
def progress_bar(
    title: str, total: float | None = None, *columns: ProgressColumn | str, **fields: Any
) -> Iterator[Callable[..., None]]:
    """Draw a progress bar on standard error while the block runs.

    Yields its `update(completed=…, advance=…, total=…, description=…, FIELD=…)`. `columns` are drawn after
    the bar; a string is a format such as "{task.fields[date]}", which shows a value of `fields`.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*shown, console=err, transient=True) as bar:
        task = bar.add_task(title, total=total, **fields)
        for listener in _listeners:
            listener.progressed(title, 0.0 if total else None)

        def update(**changes: Any) -> None:
            bar.update(task, **changes)
            for listener in _listeners:
                listener.progressed(*_progress_of(bar.tasks[0]))

        yield update if _listeners else partial(bar.update, task)


def _progress_of(task: Task) -> tuple[str, float | None]:
    """Return in words what is being done, and the share that is done."""
    counted = task.total is not None and 1 < task.total < _COUNTED
    counts = f" {task.completed:,.0f} of {task.total:,.0f}" if counted else ""
    detail = "".join(f" {value}" for value in task.fields.values() if value)
    share = min(task.completed / task.total, 1.0) if task.total else None
    return f"{task.description}{counts}{detail}", share


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without secrets and control characters (for `sys.excepthook`)."""
    sys.stderr.write(mask(printable("".join(traceback.format_exception(kind, error, trace)))))


def run_guarded(work: Callable[[], None]) -> int:
    """Run `work` and return the exit code; print an expected error as one line on standard error."""
    try:
        work()
    except TapewireError as error:
        for listener in _listeners:
            listener.failed(error)
        err.print(f"[bold red]error[/]: {_escape(str(error))}", soft_wrap=True)
        return error.exit_code
    except BrokenPipeError:  # the reader of standard output has closed it
        return 0
    except KeyboardInterrupt:
        err.print("interrupted")
        return 130
    return 0


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split("\n")))


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    import asyncio

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
