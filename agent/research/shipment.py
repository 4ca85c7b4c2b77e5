"""What a command sends to the workers of a cluster, and takes back from them.

Files of inputs, models and strategies are sent by their SHA-256, once to each worker that lacks them, when
it says so. So are the cached scores of the headlines, in a store into which a task also records.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Generic, TypeVar

from agent.config import NOT_PERSISTED, Config
from agent.core.errors import ConfigError, TapewireError
from agent.data.cascade import models_of
from agent.data.columns import content_hash
from agent.data.news import NewsFile
from agent.research import moved_paths
from agent.research.cluster_worker import (
    ROOT_MARK,
    CallOutcome,
    Envelope,
    Fetch,
    Missing,
    Returned,
    ShippedFile,
    run_envelope,
)
from agent.research.program_identity import this_program
from agent.research.replay_inputs import ReplayInputs
from agent.store.database import open_database
from agent.store.row_transfer import add_rows
from models.sentiment import ENSEMBLE, SERVER, STARTER
from models.sentiment.ensemble.ensemble_file import member_path, read_ensemble
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache, text_hash
from strategies import BUILT_IN, SOURCE_FILE, source_of
from strategies.source_files import source_files

Task = TypeVar("Task")

_MAX_SENT: Final = 20
"""How often the same content is sent, because the workers that held it were lost."""


class Shipment(Generic[Task]):
    """Calls of `work` in workers that have no files of this machine.

    `inputs` names the files and the store that the tasks read, `output` the folder that a task writes;
    `publish` makes content available to workers. Raises ConfigError if a file can't be sent, and the errors
    of reading them.
    """

    def __init__(
        self,
        work: Callable[[Task], Any],
        inputs: ReplayInputs | None,
        output: Callable[[Task], Path] | None,
        publish: Callable[[bytes], Fetch],
    ) -> None:
        self._work = work
        self._inputs = inputs
        self._output = output
        self._publish = publish
        paths = [] if inputs is None else list(files_of(inputs))
        self._files = tuple(_shipped(paths))
        self._paths = {file.sha256: Path(file.real) for file in self._files}
        self._store = b"" if inputs is None else seed_store(inputs)
        self._store_hash = hashlib.sha256(self._store).hexdigest() if self._store else ""
        self._roots = {os.path.abspath(path) for path in paths} | {os.path.realpath(path) for path in paths}
        self._content: dict[str, Fetch] = {}
        self._sent = Counter[str]()

    def call(self, task: Task) -> tuple[Callable[[Envelope], Missing | Returned], Envelope]:
        """Return the call of a worker for `task`, a function and its argument."""
        output = "" if self._output is None else os.path.abspath(self._output(task))
        return run_envelope, Envelope(
            program=this_program(),
            files=self._files,
            folder=str(Path.cwd()),
            home=str(Path.home()),
            store=self._store_hash,
            output=output,
            content=dict(self._content),
            payload=moved_paths.dump((self._work, task), _marking(self._roots | ({output} - {""}))),
        )

    def receive(self, task: Task, found: Missing | Returned) -> CallOutcome | None:
        """Add the rows that a worker recorded to the store, write its files, and return the outcome.

        Returns None if the worker lacks files: they are sent with the next call. Raises StoreError.
        """
        if isinstance(found, Missing):
            for sha256 in found.unsent:
                if sha256 not in self._content:
                    self._send(sha256)
            for sha256 in found.lost:
                self._send(sha256)
            return None
        sections = {}
        if self._inputs is not None:
            sections = {name: getattr(self._inputs.config, name) for name in NOT_PERSISTED}
        outcome, rows = moved_paths.load(found.payload, str, sections)
        if self._inputs is not None and rows:
            with self._inputs.database() as database:
                add_rows(database, rows)
        if self._output is not None:
            for name, content in found.output.items():
                place = self._output(task) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        return CallOutcome(*outcome)

    def _send(self, sha256: str) -> None:
        self._sent[sha256] += 1
        if self._sent[sha256] > _MAX_SENT:
            raise TapewireError(f"workers lost a file {_MAX_SENT} times that they were sent")
        content = self._store if sha256 == self._store_hash else self._paths[sha256].read_bytes()
        self._content[sha256] = self._publish(content)


def files_of(inputs: ReplayInputs) -> Iterator[Path]:
    """Yield the files and folders that replays of `inputs` read, apart from Tapewire itself.

    Raises ConfigError if the code of a strategy can't be found or sent.
    """
    plan, config = inputs.plan, inputs.config
    yield from (path for path, _ in plan.klines)
    yield from filter(None, (plan.news, plan.sentiment, plan.funding))
    if config.fusion.path:
        yield Path(config.fusion.path).expanduser()
    if plan.news is not None:
        for model in filter(None, (config.model.path, config.model.revise_with)):
            yield from _files_of_model(model, config)
    for strategy in config.strategies().values():
        yield from _code_of(strategy.name)


def _files_of_model(name: str, config: Config) -> Iterator[Path]:
    """Yield the files of a sentiment model, without the shipped one and keys of servers."""
    if name == STARTER:
        return
    if name.startswith(SERVER):
        for path in filter(None, (config.llm.examples, config.llm.calibration)):
            yield Path(path).expanduser()
        if config.llm.fallback:
            yield from _files_of_model(config.llm.fallback, config)
    elif name.startswith(ENSEMBLE):
        folder = Path(name.removeprefix(ENSEMBLE)).expanduser()
        yield folder
        for member in read_ensemble(folder).members:
            yield from _files_of_model(member_path(folder, member.path), config)
    else:
        yield Path(name).expanduser()


def _code_of(name: str) -> Iterator[Path]:
    """Yield the files of a strategy that isn't built in."""
    module = BUILT_IN.get(name, name).partition(":")[0]
    if module.partition(".")[0] == "strategies":
        return
    recorded = source_of(name)
    files = source_files(name, recorded) if recorded else []
    if files:
        yield from files
        return
    package = Path.cwd() / module.partition(".")[0]
    if not recorded or not Path(recorded[SOURCE_FILE]).is_relative_to(package):
        raise ConfigError(
            f"the code of strategy {name} can't be sent to other machines",
            hint="name a file, mine.py:Class, or a module in the working folder",
        )
    yield from package.rglob("*.py")


def _shipped(paths: list[Path]) -> Iterator[ShippedFile]:
    """Yield the files at `paths`, and those in folders, by their hashes. Raises DataError."""
    found = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.is_dir():
                found[os.path.abspath(file)] = file
    for name, file in found.items():
        yield ShippedFile(name, os.path.realpath(file), content_hash(file))


def _marking(roots: set[str]) -> moved_paths.Move:
    """Return what puts ROOT_MARK before each of `roots` in a text."""
    if not roots:
        return str
    names = "|".join(map(re.escape, sorted(roots, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w./~-])(?:{names})(?![\w.-])")
    return lambda text: pattern.sub(lambda found: ROOT_MARK + found[0], text)


def seed_store(inputs: ReplayInputs) -> bytes:
    """Return an SQLite store with the cached scores of the headlines, and nothing else.

    Those before the window are included, since a warm-up reads them. Raises as opening the model.
    """
    with TemporaryDirectory(prefix="tapewire-") as folder:
        path = Path(folder) / "seed.db"
        with closing(open_database(f"sqlite:///{path}")) as seed:
            if inputs.plan.news is not None:
                _copy_scores(inputs, SqlScoreCache(seed))
        return path.read_bytes()


def _copy_scores(inputs: ReplayInputs, target: SqlScoreCache) -> None:
    plan = inputs.plan
    if plan.news is None:
        return
    delay = inputs.config.history.feed_delay
    titles = [
        news.title for news in NewsFile(plan.news, feed_delay=delay, end=plan.end, timezone=plan.timezone)
    ]
    with inputs.database() as database:
        for model in models_of(inputs.scoring(database, plan.end or 0).scorer):
            if isinstance(model, CachedScorer):
                hashes = [text_hash(title, model.names) for title in titles]
                target.put(model.fingerprint, model.cache.get(model.fingerprint, hashes))
