"""A `tapewire` program that starts at once: it is forked from a process that has everything imported.

`warm_tapewire(FOLDER)` writes the program `FOLDER/tapewire`. It behaves as the real one: own process, working
folder, environment, standard streams, signals and exit code. Only its imports are those of the server.
"""

from __future__ import annotations

import array
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_CLIENT: Final = """#!{python} -IS
import array, json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
fds = array.array("i", [0, 1, 2])
job = json.dumps([sys.argv, os.getcwd(), dict(os.environ)], ensure_ascii=True).encode()
server.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
server.sendmsg([job])
process = int(server.recv(100))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
sys.exit(int(server.recv(100)))
"""
_IMPORTED: Final = (
    "agent.cli.main",
    "agent.live.app",
    "agent.sandbox",
    "agent.replay.backtest",
    "agent.replay.verify",
    "agent.replay.run_bundle",
    "agent.replay.what_if",
    "agent.analysis.report.html",
    "agent.research.walk_forward",
    "agent.research.sweep",
    "agent.research.tuning",
    "agent.research.lookahead",
    "agent.research.run_list",
    "models.sentiment.serve.scorer",
    "pandas",
)


@contextmanager
def warm_tapewire(folder: Path) -> Iterator[Path]:
    """Write the program to `folder`; it works inside the context."""
    with tempfile.TemporaryDirectory(prefix="tapewire-warm-") as home:
        address = f"{home}/socket"
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_tapewire", address],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            program = folder / "tapewire"
            program.write_text(_CLIENT.format(python=sys.executable, address=address))
            program.chmod(0o755)
            yield program
        finally:
            server.kill()
            server.wait()


def serve(address: str) -> None:
    """Import the program, then run a command in a fork of this process for each connection."""
    import importlib

    for name in _IMPORTED:
        importlib.import_module(name)
    from agent.cli.main import build

    build()  # imports the modules of all commands
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        running = 0
        while True:
            connection, _ = listener.accept()
            while running and os.waitpid(-1, os.WNOHANG)[0]:
                running -= 1
            running += 1
            if os.fork() == 0:
                listener.close()
                with suppress(OSError):  # the client was killed
                    _run(connection)
                os._exit(0)
            connection.close()


def _run(connection: socket.socket) -> None:
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * 4))
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    argv, folder, environment = json.loads(connection.recv(1 << 20))
    pid = os.fork()
    if pid == 0:
        connection.close()
        os._exit(_command(list(fds), argv, folder, environment))
    for fd in fds:
        os.close(fd)
    connection.send(b"%d" % pid)
    connection.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _command(fds: list[int], argv: list[str], folder: str, environment: dict[str, str]) -> int:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(0, closefd=False),
        os.fdopen(1, "w", closefd=False),
        os.fdopen(2, "w", 1, closefd=False),
    )
    random.seed()  # the state of the server would be the same in each process
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(":") if path not in sys.path]
    from agent.cli.main import main

    code: Any = 0
    try:
        main()
    except SystemExit as left:
        code = left.code
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve(sys.argv[1])
