"""Creates the strategies of a recorded run: the first one, and those that `use-strategy` commands brought.

A strategy in a file is made from its stored source, whatever has become of the file. A built-in strategy is
that of the program, and one of an installed package must be the module that the run used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.core.errors import SafetyError, StoreError
from agent.core.strategy import Strategy
from agent.store.database import Database
from agent.store.runs import Run
from agent.store.strategy_sources import is_trusted, read_source
from strategies import (
    BUILT_IN,
    SOURCE_FILE,
    SOURCE_SHA256,
    check_source,
    create_strategy,
    load_strategy,
    source_of,
)
from strategies.stored_source import class_of_first_source, class_of_source

_MOST_PREPARED: Final = 8


class StrategyVersions:
    """The strategies of `run`, as a `StrategyLoader`.

    Sources run if they have been run on this machine before: their file is still there, or `folder`
    (live.folder) has a copy; with `trust` all of them do. With `own` the run is the agent's that resumes it,
    whose configuration names the file to import.
    """

    def __init__(
        self,
        database: Database,
        run: Run,
        folder: Path | None = None,
        *,
        trust: bool = False,
        own: bool = False,
    ) -> None:
        self._database = database
        self._run = run
        self._folder = folder
        self._trust = trust
        self._own = own
        self._prepared: dict[bytes, Strategy] = {}

    def first(self) -> Strategy:
        """Create the strategy with which the run began.

        Raises SafetyError if its source is not the one of the run or not trusted, ConfigError, StoreError.
        """
        run = self._run
        source = self._first_source()
        if source is None:
            if not self._trust and not self._own:
                check_source(run.strategy, run.versions)
            return load_strategy(run.strategy, run.params)
        file, _, class_name = run.strategy.partition(":")
        kind = class_of_first_source(source, Path(run.versions.get(SOURCE_FILE, file)), class_name)
        return create_strategy(kind, run.params, run.strategy)

    def _first_source(self) -> bytes | None:
        """Return the stored source if the run's file has changed; None if the file is to be imported."""
        run = self._run
        name, sha256 = run.strategy.partition(":")[0], run.versions.get(SOURCE_SHA256, "")
        if not name.endswith(".py") or not sha256 or source_of(run.strategy) == _recorded(run):
            return None
        if not self._trust and not is_trusted(self._folder, sha256):
            return None
        return read_source(self._database, sha256)

    @property
    def first_has_changed(self) -> bool:
        """True if the file of the run's first strategy is not the one that the run began with."""
        return self._first_source() is not None

    def prepare(self, args: Mapping[str, str], strategy: Strategy) -> None:
        """Use `strategy`, which has been checked, for the next command with these arguments."""
        if len(self._prepared) >= _MOST_PREPARED:
            self._prepared.clear()
        self._prepared[_key(args)] = strategy

    def __call__(self, args: Mapping[str, str]) -> Strategy:
        """Create the strategy of a command `use-strategy`.

        Raises SafetyError if its source is not the one of the command or not trusted, ConfigError, and
        StoreError if the store lacks the source.
        """
        prepared = self._prepared.pop(_key(args), None)
        if prepared is not None:
            return prepared
        name, sha256 = args.get("strategy", ""), args.get("sha256", "")
        params = msgspec.json.decode(args.get("params", "{}"), type=dict[str, Any])
        if name.endswith(".py"):
            return create_strategy(self._stored(name, sha256, args.get("class", "")), params, name)
        if name not in BUILT_IN and not self._trust:
            check_source(name, {SOURCE_FILE: source_of(name).get(SOURCE_FILE, ""), SOURCE_SHA256: sha256})
        return load_strategy(name, params)

    def _stored(self, name: str, sha256: str, class_name: str) -> type[Strategy]:
        source = read_source(self._database, sha256)
        if source is None:
            raise StoreError(
                f"the store has no source {sha256[:12]} of {name}, which the run used",
                hint="restore a backup that has it",
            )
        same = source_of(name).get(SOURCE_SHA256) == sha256
        if not (self._trust or same or is_trusted(self._folder, sha256)):
            raise SafetyError(
                f"the source {sha256[:12]} of {name} has never run on this machine",
                hint=f"read it: tapewire strategy show --run {self._run.id} {sha256[:12]}; "
                "if you trust it, add --trust",
            )
        return class_of_source(source, Path(name), class_name)


def _recorded(run: Run) -> dict[str, str]:
    return {key: run.versions.get(key, "") for key in (SOURCE_FILE, SOURCE_SHA256)}


def _key(args: Mapping[str, str]) -> bytes:
    return msgspec.msgpack.encode(dict(args), order="deterministic")
