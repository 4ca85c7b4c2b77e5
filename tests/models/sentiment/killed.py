"""A real `tapewire` command in a process that is killed just before its n-th operation on files below a folder.

    python -m tests.models.sentiment.killed FOLDER FIRST STEP LIMIT -- tapewire's arguments with {} for a folder

Each kill is a fork of one process that has imported everything, so that a kill costs no import. Copies of FOLDER are prepared by
the caller as FOLDER-0, FOLDER-1 …; the copy `number` is killed before operation FIRST + STEP * number. Prints one line a copy:
its number, whether it was killed, and the operation.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def die_before(operation: int, below: str, report: int) -> None:
    """Kill this process before its `operation`-th change (from 0) of a file whose path contains `below`, and name it on `report`."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not (opened or event in CHANGES) or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if below not in os.fsdecode(args[0]):
            return
        if seen == operation:
            os.write(report, f"{event} {os.path.basename(os.fsdecode(args[0]))}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(hook)


def main() -> None:
    folder, first, step, limit = sys.argv[1], *map(int, sys.argv[2:5])
    arguments = sys.argv[6:]
    from agent.cli.main import build

    for number in range(limit):
        child = os.fork()
        if not child:
            report, devnull = os.dup(1), os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            die_before(first + step * number, os.path.basename(f"{folder}-{number}"), report)
            try:
                build()([argument.replace("{}", f"{folder}-{number}") for argument in arguments], standalone_mode=False)
            except BaseException as error:  # noqa: BLE001 - the caller reads what it was
                os.write(report, f"{number} failed {error!r}\n".encode())
                os._exit(1)
            os.write(report, f"{number} finished\n".encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    main()
