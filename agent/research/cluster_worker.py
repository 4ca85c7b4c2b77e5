"""A task in the worker of a cluster, which has neither the files of the command nor its store.

Files are kept by their SHA-256 in a folder of the worker's own. For a command they are linked into a folder
that repeats the paths of the command's machine (a *view*), with its working and home folders; the task runs
in there. So each path inside has its counterpart outside, and what is recorded doesn't depend on where a
worker keeps its files. The task records into a store of its own, whose rows go back with the result.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from agent.config import NOT_PERSISTED, Config
from agent.core.errors import TapewireError
from agent.research import moved_paths
from agent.research.program_identity import Program, check_program
from agent.research.replay_inputs import clear_window_cache
from agent.store.database import open_database
from agent.store.row_transfer import Rows, read_all_rows

Fetch = Callable[[], bytes]
"""Fetches published content in a worker. Raises ContentLost."""

CACHE: Final = "TAPEWIRE_CACHE"
"""Environment variable with the folder for received files; by default ~/.cache/tapewire."""

ROOT_MARK: Final = "\0"
"""Stands before a path of the command's machine where the worker puts its own folder."""

_KEPT: Final = 30 * 86_400  # seconds for which unused files are kept
_TURN: Final = threading.Lock()  # working folder, modules and caches belong to the process


HELD: Final[list[Callable[[], None]]] = [clear_window_cache]
"""What frees the memory that a process holds for the next task of the same command."""


def forget() -> None:
    """Free what this worker holds for a command that has ended."""
    for free in HELD:
        free()


class ContentLost(Exception):
    """Published content is gone, because the worker that held it was lost."""


class ShippedFile(msgspec.Struct, frozen=True):
    """A file of the command's machine. `real` is its absolute path without symbolic links."""

    path: str
    real: str
    sha256: str


class Envelope(msgspec.Struct, frozen=True):
    """A call for a worker, and what it needs there.

    `payload` is the pickled function and its argument, `store` the SHA-256 of the store to record into, and
    `output` the folder whose files go back; both may be empty. `content` has a `Fetch` by SHA-256.
    """

    program: Program
    files: tuple[ShippedFile, ...]
    folder: str  # working folder, absolute
    home: str
    store: str
    output: str
    content: dict[str, Any]
    payload: bytes


class Missing(msgspec.Struct, frozen=True):
    """SHA-256 of content that the worker lacks: not sent, or lost with the worker that held it."""

    unsent: tuple[str, ...]
    lost: tuple[str, ...]


class Returned(msgspec.Struct, frozen=True):
    """A call that has ended: its pickled `CallOutcome` and rows, and the files it wrote by relative path."""

    payload: bytes
    output: dict[str, bytes]


class CallOutcome(NamedTuple):
    """A result, or the error that took its place."""

    result: Any = None
    error: BaseException | None = None


def run_envelope(envelope: Envelope) -> Missing | Returned:
    """Run a call in this worker; its exceptions are returned. One call at a time runs in a process."""
    with _TURN, _Catching() as caught:
        check_program(envelope.program, f"{socket.gethostname()}:{os.getpid()}")
        cache = Cache()
        return cache.fetch(envelope) or _run(envelope, cache)
    return Returned(moved_paths.dump((CallOutcome(None, caught.error), {}), str), {})


def _run(envelope: Envelope, cache: Cache) -> Returned:
    root = cache.view(envelope)
    store = cache.fresh_store(envelope.store) if envelope.store else None
    defaults = Config()
    sections = {name: getattr(defaults, name) for name in NOT_PERSISTED}
    if store is not None:
        sections["store"] = sections["store"].model_copy(update={"url": f"sqlite:///{store}"})
    output = Path(f"{root}{envelope.output}") if envelope.output else None
    if output is not None:
        shutil.rmtree(output, ignore_errors=True)  # of a call that was lost
    with _inside(root, envelope), _Catching() as caught:
        work, task = moved_paths.load(
            envelope.payload, lambda text: text.replace(ROOT_MARK, str(root)), sections
        )
        caught.result = work(task)
    rows: Rows = {}
    if store is not None:
        with closing(open_database(f"sqlite:///{store}")) as database:
            rows = read_all_rows(database)
    written = _files_in(output) if output is not None else {}
    payload = moved_paths.dump((caught.outcome, rows), lambda text: text.replace(str(root), ""))
    return Returned(payload, written)


class _Catching:
    """Context that ends with the exception of its block as `error`."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def outcome(self) -> CallOutcome:
        return CallOutcome(self.result, self.error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, TapewireError):  # tracebacks can't be pickled
            error.add_note("in a worker: " + "".join(traceback.format_exception(error)))
        self.error = error
        return True


class Cache:
    """Received files of this machine by their SHA-256, views of them, and the stores of worker processes."""

    def __init__(self) -> None:
        own = os.environ.get(CACHE)
        self._folder = Path(own) if own else Path.home() / ".cache" / "tapewire"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder = self._folder.resolve()

    def fetch(self, envelope: Envelope) -> Missing | None:
        """Fetch the content that isn't here yet; return what can't be fetched, if there is any."""
        unsent, lost = [], []
        for sha256 in sorted({file.sha256 for file in envelope.files} | ({envelope.store} - {""})):
            if self._content(sha256).is_file():
                continue
            if sha256 not in envelope.content:
                unsent.append(sha256)
                continue
            try:
                self._keep(sha256, envelope.content[sha256]())
            except ContentLost:
                lost.append(sha256)
        return Missing(tuple(unsent), tuple(lost)) if unsent or lost else None

    def view(self, envelope: Envelope) -> Path:
        """Return the folder that has the files of `envelope` at their paths."""
        described = msgspec.json.encode([envelope.files, envelope.folder, envelope.home])
        root = self._folder / "views" / hashlib.sha256(described).hexdigest()[:24]
        if root.is_dir():
            os.utime(root)
            return root
        self._remove_unused()
        root.parent.mkdir(exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".", dir=root.parent))
        for folder in (envelope.folder, envelope.home):
            Path(f"{unfinished}{folder}").mkdir(parents=True, exist_ok=True)
        for file in envelope.files:
            source, place = self._content(file.sha256), Path(f"{unfinished}{file.real}")
            os.utime(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(source)
            except FileExistsError:
                continue  # by two names
            except OSError:
                shutil.copyfile(source, place)
        for file in envelope.files:
            alias = Path(f"{unfinished}{file.path}")
            if not alias.exists():
                alias.parent.mkdir(parents=True, exist_ok=True)
                alias.symlink_to(f"{root}{file.real}")
        try:
            unfinished.rename(root)
        except OSError:  # another worker was faster
            shutil.rmtree(unfinished)
        return root

    def fresh_store(self, sha256: str) -> Path:
        """Return this process's store, as a copy of the content `sha256`."""
        folder = self._folder / "stores" / f"{socket.gethostname()}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store = folder / "run.db"
        shutil.copyfile(self._content(sha256), store)
        return store

    def _content(self, sha256: str) -> Path:
        return self._folder / "files" / sha256

    def _keep(self, sha256: str, content: bytes) -> None:
        """Write content. Raises ContentLost if it is other content."""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ContentLost(sha256)
        place = self._content(sha256)
        place.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=place.parent)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, 0o444)  # views are links to it
        Path(name).replace(place)

    def _remove_unused(self) -> None:
        """Remove what no command has used for `_KEPT`."""
        oldest = time.time() - _KEPT
        for kind in ("files", "views", "stores"):
            for path in (self._folder / kind).glob("*"):
                if path.stat().st_mtime >= oldest:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


@contextmanager
def _inside(root: Path, envelope: Envelope) -> Iterator[None]:
    """Work in the folder of the command, below `root`, without modules from the views of other commands."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(f"{root.parent}/") and not file.startswith(f"{root}/"):
            del sys.modules[name]
    before, home = Path.cwd(), os.environ.get("HOME")
    os.chdir(f"{root}{envelope.folder}")
    os.environ["HOME"] = f"{root}{envelope.home}"
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("HOME")
        if home is not None:
            os.environ["HOME"] = home


def _files_in(folder: Path) -> dict[str, bytes]:
    """Take the files from a folder."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    shutil.rmtree(folder, ignore_errors=True)
    return found
