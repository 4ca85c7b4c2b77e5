"""Run `tapewire train sentiment` and kill it before each file operation of saving the model.

    python -m tests.models.sentiment.kill_training OUTPUT SNAPSHOTS -- ARGUMENTS

ARGUMENTS are those of `tapewire`. The model is trained once. Then the process forks once per file operation.
The child continues and kills itself (SIGKILL) just before that operation; the parent copies the folder around
OUTPUT to SNAPSHOTS/<number> and restores it. The last child runs to the end. The script prints one line per
child: the operation, or `finished` or `failed` for the last one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def die_before(operation: int, below: Path, report: int) -> None:
    """Kill this process before its file operation number `operation` in `below`.

    Operations are counted from 0. The operation is first written to the file descriptor `report`.
    """
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not (opened or event in CHANGES) or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(args[0])
        # shutil.rmtree passes paths relative to a directory descriptor
        if os.path.isabs(path) and not path.startswith(str(below)):
            return
        if seen == operation:
            os.write(report, f"{event} {os.path.basename(path)}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(hook)


def main() -> None:
    output, snapshots, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:]
    for module in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        import_module(module)  # before the forks, so that not every child imports it
    from agent.cli.main import build
    from models.sentiment.train import training

    around, pristine = output.parent, snapshots / "pristine"
    replaced_folder = training.replaced_folder
    report, devnull = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)

    @contextmanager
    def forking(folder: Path, **how: Any) -> Iterator[Path]:
        shutil.copytree(around, pristine)
        for number in itertools.count():
            child = os.fork()
            if not child:
                die_before(number, around, report)
                with replaced_folder(folder, **how) as unfinished:
                    yield unfinished
                return
            _, status = os.waitpid(child, 0)
            shutil.copytree(around, snapshots / str(number), symlinks=True)
            if not os.WIFSIGNALED(status):
                os.write(report, b"finished\n" if status == 0 else b"failed\n")
                os._exit(0)
            shutil.rmtree(around)
            shutil.copytree(pristine, around)

    training.replaced_folder = forking
    build(arguments[0])(arguments)


if __name__ == "__main__":
    main()
