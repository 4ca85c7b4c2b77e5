"""Runs one command of the command line as a job: `agent.jobs.job_queue` starts it as a process.

The command, its limits and the server's configuration are the request. Progress, the JSON that the command
prints, and its error are messages (see `agent.jobs.worker_side`).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from typing import Any, Final

import msgspec

from agent.cli.command_options import act_as
from agent.cli.console import listen
from agent.cli.main import main as run_command_line
from agent.config import give, parse
from agent.core.durations import format_duration
from agent.core.errors import TapewireError
from agent.jobs.job_command import GRACE, JobCommand
from agent.jobs.worker_side import (
    MessageWriter,
    WorkerMessage,
    end_with_parent,
    limit_process,
    read_request,
)

_STEP: Final = 0.005  # share
_QUIET: Final = 1.0  # seconds after which a smaller step is sent as well
_WIDTH: Final = "160"  # columns of what the command prints on standard error


class _Messages:
    """Sends progress, not too often, and keeps the error that ends the command."""

    def __init__(self, messages: MessageWriter) -> None:
        self._messages = messages
        self._sent = WorkerMessage()
        self._sent_at = float("-inf")
        self.error: TapewireError | None = None

    def progressed(self, line: str, share: float | None) -> None:
        now, share = time.monotonic(), round(share or 0.0, 4)
        other = self._sent.line.partition(" ")[0] != line.partition(" ")[0]
        if other or abs(share - self._sent.share) >= _STEP or now - self._sent_at >= _QUIET:
            self._sent, self._sent_at = WorkerMessage(share, line), now
            self._messages.send(self._sent)

    def failed(self, error: TapewireError) -> None:
        self.error = _no_memory() if isinstance(error.__cause__, MemoryError) else error


def main() -> None:
    """Run the command; the exit code is its own."""
    messages = MessageWriter()
    request = msgspec.json.decode(read_request(), type=JobCommand)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background ignores it
    signal.signal(signal.SIGXCPU, _refuse_cpu_time(request.cpu))
    end_with_parent(GRACE)
    limit_process(memory=request.memory, cpu=request.cpu)
    os.environ["COLUMNS"] = _WIDTH
    give(parse(request.config, where="the server's configuration"))
    act_as(request.by)
    listener = _Messages(messages)
    listen(listener)
    sys.argv = ["tapewire", *request.arguments]
    sys.stdout = printed = io.StringIO()
    code: Any = 0
    try:
        run_command_line()
    except SystemExit as left:
        code = left.code
    except MemoryError:
        listener.error = _no_memory()
        code = 1
    if listener.error is not None:
        messages.send(WorkerMessage(error=listener.error.message, hint=listener.error.hint))
    elif line := _last_line(printed.getvalue()):
        messages.send(WorkerMessage(1.0, result=msgspec.Raw(line.encode())))
    sys.stderr.flush()
    sys.exit(code)


def _no_memory() -> TapewireError:
    return TapewireError(
        "the job needs more memory than jobs.memory",
        hint="raise it, choose a shorter window or fewer variants, or use the command line",
    )


def _refuse_cpu_time(seconds: int) -> Any:
    def refuse(*_: object) -> None:
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)  # it comes every second, also while the end is recorded
        raise TapewireError(
            f"the job used more CPU time than jobs.cpu, {format_duration(seconds * 1000)}",
            hint="raise it, choose a shorter window or fewer variants, or use the command line",
        )

    return refuse


def _last_line(printed: str) -> str:
    """Return the JSON that the command printed last: the output of a strategy is not a result."""
    last = printed.rstrip("\n").rpartition("\n")[2]
    try:
        msgspec.json.decode(last)
    except msgspec.MsgspecError:
        return ""
    return last


if __name__ == "__main__":
    main()
