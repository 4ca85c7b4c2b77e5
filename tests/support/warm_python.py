"""Interpreters that have the program imported when they start.

A test that starts `python -m agent.cli.main …` pays one to four seconds for imports, which it doesn't test.
In tests marked `warm`, `subprocess` and `multiprocessing` get such a process forked from one that has all of
it imported. It is a child of the test's process like any other: own process id, streams, working folder,
environment, session, signals and exit code. `warm("training")` has the libraries of training imported too.

What a fork can't show, a test must see in a process that starts as a user's: what is imported and from where,
and whether a result depends on the hash seed, which all forks share.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import inspect
import json
import multiprocessing.util
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

_PROGRAM: Final = (
    "agent.live.app",
    "agent.sandbox",
    "agent.replay.backtest",
    "agent.replay.verify",
    "agent.replay.run_bundle",
    "agent.replay.what_if",
    "agent.analysis.report.html",
    "agent.research.file_truncation",
    "agent.research.walk_forward",
    "agent.research.sweep",
    "agent.research.lookahead",
    "agent.research.run_list",
    "optuna",
    "pandas",
    "tokenizers",
    "rich.progress",
    "typer.rich_utils",
)
"""Without `agent.cli`, whose consoles look at the environment when they are imported, and without
onnxruntime, whose import starts a thread, which a fork lacks.
"""

_TRAINING: Final = (
    *_PROGRAM,
    "torch",
    "transformers",
    "transformers.models.bert.modeling_bert",
    "peft",
    "onnxscript",
    "torch.onnx",
    "sklearn.linear_model",
)
IMPORTS: Final[Mapping[str, tuple[str, ...]]] = {"": _PROGRAM, "training": _TRAINING}

_SET_CHILD_SUBREAPER: Final = 36
_MESSAGE: Final = 1 << 20
_MAX_FDS: Final = 60
_EXECUTE: Final = "_execute_child"
_SIGNATURE: Final = inspect.signature(getattr(subprocess.Popen, _EXECUTE))
_UNSHARE: Final = ["unshare", "--map-root-user", "--mount", "--"]
_NEW_MOUNTS, _NEW_USERS, _PRIVATE_MOUNTS = 0x00020000, 0x10000000, 0x4000 | 0x40000


def is_available() -> bool:
    """Return whether this system can hand a process over to another parent (Linux)."""
    return sys.platform == "linux"


# -- the side of the test ------------------------------------------------------------------------------------


class Interpreter:
    """A process with `imports` that forks another for each call of `start`."""

    def __init__(self, imports: Sequence[str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), *imports]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with theirs:
            self._process = _Cold(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])

    def start(self, arguments: Sequence[str], fds: Mapping[int, int], **how: Any) -> int:
        """Start `python ARGUMENTS…`; return the id of the process, a child of this one.

        `fds` maps its descriptors to ours. Raises OSError if there is no such process to fork.
        """
        with self._lock, _adopting():
            if how["umask"] < 0:
                how["umask"] = os.umask(0o77)
                os.umask(how["umask"])
            job = json.dumps({"arguments": list(arguments), "fds": list(fds), **how}).encode()
            socket.send_fds(self._channel, [job], list(fds.values()))
            reply = self._channel.recv(100)
        if not reply:
            raise OSError("the warm interpreter has ended")
        return int(reply)

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


class _Cold(subprocess.Popen[Any]):
    """A process as `subprocess` starts it."""


_interpreters: dict[str, Interpreter] = {}
_wanted: list[str] = []


@contextmanager
def warm(kind: str = "") -> Iterator[None]:
    """Let the Python processes that this one starts be forks of a warm interpreter of that kind."""
    _wanted.append(kind)
    try:
        yield
    finally:
        _wanted.pop()


def install() -> None:
    """Let `subprocess` and `multiprocessing` start warm processes inside `warm`."""
    if is_available():
        setattr(subprocess.Popen, _EXECUTE, _execute_child)
        vars(multiprocessing.util)["spawnv_passfds"] = _spawnv_passfds


def close() -> None:
    """End the warm interpreters."""
    while _interpreters:
        _interpreters.popitem()[1].close()


def _interpreter() -> Interpreter:
    kind = _wanted[-1]
    if kind not in _interpreters:
        _interpreters[kind] = Interpreter(IMPORTS[kind])
    return _interpreters[kind]


_execute_cold = getattr(subprocess.Popen, _EXECUTE)
_spawn_cold = multiprocessing.util.spawnv_passfds


def _execute_child(process: Any, *args: Any, **kwargs: Any) -> None:
    given = _SIGNATURE.bind(process, *args, **kwargs).arguments
    command = given["args"]
    words = [] if isinstance(command, str | bytes | os.PathLike) else [os.fsdecode(word) for word in command]
    apart = words[: len(_UNSHARE)] == _UNSHARE
    words = words[len(_UNSHARE) :] if apart else words
    plain = not given["shell"] and given["preexec_fn"] is None and not given["executable"]
    plain = plain and given["gid"] is given["uid"] is given["gids"] is None and given["process_group"] < 0
    if isinstance(process, _Cold) or not (_wanted and plain and _is_ours(words)):
        _execute_cold(process, *args, **kwargs)
        return
    pipes = given["p2cread"], given["c2pwrite"], given["errwrite"]
    fds = {number: pipe if pipe != -1 else number for number, pipe in enumerate(pipes)}
    fds |= {int(fd): int(fd) for fd in given["pass_fds"]}
    environment = os.environ if given["env"] is None else given["env"]
    process.pid = _interpreter().start(
        words[1:],
        fds,
        cwd=os.path.abspath(os.fsdecode(given["cwd"] or ".")),
        environment={os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()},
        new_session=bool(given["start_new_session"]),
        umask=given["umask"],
        apart=apart,
    )
    vars(process)["_child_created"] = True
    close_pipes = getattr(process, "_close_pipe_fds")  # noqa: B009
    names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    close_pipes(*(given[name] for name in names))


def _spawnv_passfds(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
    words = [os.fsdecode(word) for word in args]
    if not (_wanted and _is_ours(words) and "--multiprocessing-fork" in words):
        return _spawn_cold(path, args, passfds)
    fds = {0: 0, 1: 1, 2: 2} | {int(fd): int(fd) for fd in passfds}
    return _interpreter().start(
        words[1:],
        fds,
        cwd=os.getcwd(),
        environment=dict(os.environ),
        new_session=False,
        umask=-1,
        apart=False,
    )


def _is_ours(words: Sequence[str]) -> bool:
    """Return whether `words` start this interpreter with a module, code or a script and no option but -P."""
    rest = words[2:] if words[1:2] == ["-P"] else words[1:]
    return words[:1] == [sys.executable] and bool(rest) and (rest[0] in ("-m", "-c") or rest[0][0] != "-")


@contextmanager
def _adopting() -> Iterator[None]:
    """Make this process the parent of the orphans among its descendants."""
    _prctl(_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(_SET_CHILD_SUBREAPER, 0)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# -- the side of the interpreter -----------------------------------------------------------------------------


def serve(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request; return in the forked process, with the request and its descriptors."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, _MESSAGE, _MAX_FDS)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            # Its child becomes an orphan, whom the process of the test adopts
            parent = os.getpid()
            if pid := os.fork():
                os.write(writer, b"%d" % pid)
                os._exit(0)
            while os.getppid() == parent:
                time.sleep(0.0005)
            for fd in (reader, writer, channel.detach()):
                os.close(fd)
            return json.loads(message), fds
        for fd in (writer, *fds):
            os.close(fd)
        pid_text = os.read(reader, 100)
        os.close(reader)
        os.waitpid(between, 0)
        channel.send(pid_text)


def become(request: Mapping[str, Any], fds: Sequence[int], paths: Sequence[str]) -> None:
    """Make this process what the interpreter would have been that was asked for, and run its program."""
    if request["new_session"]:
        os.setsid()
    if request["apart"]:
        _leave_mounts()
    above = max(request["fds"]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for number, fd in zip(request["fds"], moved, strict=True):
        os.dup2(fd, number)
    for fd in (*fds, *moved):
        if fd not in request["fds"]:
            os.close(fd)
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    buffering = 1 if "PYTHONUNBUFFERED" not in os.environ else -1
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if "PYTHONUNBUFFERED" in os.environ:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    # The state of the process that it was forked from would be the same in each
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    words = list(request["arguments"])
    safe = words[0] == "-P"
    words = words[1:] if safe else words
    extra = [path for path in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    gc.unfreeze()
    gc.enable()
    if words[0] == "-m":
        sys.path[:] = [*([] if safe else [os.getcwd()]), *extra, *paths]
        sys.argv = words[1:]
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[:] = [*([] if safe else [""]), *extra, *paths]
        sys.argv = ["-c", *words[2:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(module))
    else:
        first = os.path.dirname(os.path.realpath(words[0]))
        sys.path[:] = [*([] if safe else [first]), *extra, *paths]
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _leave_mounts() -> None:
    """Do what `unshare --map-root-user --mount` does."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USERS | _NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", b"/", None, _PRIVATE_MOUNTS, None):
        raise OSError(ctypes.get_errno(), "mount")


def main(channel: str, *imports: str) -> None:
    paths = sys.path[2:]  # without the working folder and PYTHONPATH
    for name in imports:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.disable()
    request, fds = serve(socket.socket(fileno=int(channel)))
    _run(lambda: become(request, fds, paths))


def _run(program: Callable[[], None]) -> None:
    """Run the program and end with its exit code, as an interpreter does, but without the destructors of
    libraries: they wait for threads that only the process has from which this one was forked.
    """
    code = 1
    try:
        program()
        code = 0
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            code = left.code or 0
        else:
            print(left.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        if (error := sys.exc_info()[1]) is not None:
            sys.excepthook(type(error), error, error.__traceback__)
        vars(threading)["_shutdown"]()
        vars(atexit)["_run_exitfuncs"]()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    main(*sys.argv[1:])
