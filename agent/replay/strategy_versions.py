"""Creates the strategies of a recorded run: the first ones, and those that `use-strategy` commands brought.

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
    """The strategies of `run`, as a `StrategyLoader`; `for_sleeve` is its `LoadStrategy`.

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
        self._given: set[str] = set()

    def first(self) -> Strategy:
        """Create the strategy with which the run began.

        Raises SafetyError if its source is not the one of the run or not trusted, ConfigError, StoreError.
        """
        run = self._run
        return self._create_first(run.strategy, run.params, _recorded(run))

    def for_sleeve(self, name: str, params: Mapping[str, Any], source: Mapping[str, str] | None) -> Strategy:
        """Create the first strategy of a sleeve; see `agent.core.sleeve_roster.LoadStrategy`. Raises as
        `first`.
        """
        if source is None:
            if name in self._given:
                return load_strategy(name, params)
            return self._create_first(name, params, self._recorded_as(name))
        sha256 = source.get(SOURCE_SHA256, "")
        file, _, class_name = name.partition(":")
        if file.endswith(".py") and sha256 and read_source(self._database, sha256) is not None:
            return create_strategy(self._stored(file, sha256, class_name), params, name)
        if not self._trust:
            check_source(name, source)
        return load_strategy(name, params)

    def allow(self, name: str) -> None:
        """Import the strategy `name` for sleeves although it is not the run's: a user asks for it."""
        self._given.add(name)

    def check_new(self, name: str) -> None:
        """Raise SafetyError unless the strategy `name`, which the run has not used, may be imported."""
        if not self._trust and name not in self._given:
            check_source(name, self._recorded_as(name))

    def _recorded_as(self, name: str) -> dict[str, str]:
        """Return the recorded source of the sleeves that began with the strategy `name`."""
        found = recorded_strategies(self._run).values()
        return next((source for strategy, source in found if strategy == name), {})

    def _create_first(self, name: str, params: Mapping[str, Any], recorded: Mapping[str, str]) -> Strategy:
        source = self._first_source(name, recorded)
        if source is None:
            if not self._trust and not self._own:
                check_source(name, recorded)
            return load_strategy(name, params)
        file, _, class_name = name.partition(":")
        kind = class_of_first_source(source, Path(recorded.get(SOURCE_FILE) or file), class_name)
        return create_strategy(kind, params, name)

    def _first_source(self, name: str, recorded: Mapping[str, str]) -> bytes | None:
        """Return the stored source if the strategy's file has changed; None if the file is to be imported."""
        sha256 = recorded.get(SOURCE_SHA256, "")
        if not name.partition(":")[0].endswith(".py") or not sha256 or source_of(name) == recorded:
            return None
        if not self._trust and not is_trusted(self._folder, sha256):
            return None
        return read_source(self._database, sha256)

    def load_changed(self) -> list[str]:
        """Load the stored sources of the first strategies whose files are not those that the run began with;
        return their names. Until the process ends, each source stands for its file.
        """
        found = [
            (name, source, recorded)
            for name, recorded in recorded_strategies(self._run).values()
            if (source := self._first_source(name, recorded)) is not None
        ]
        for name, source, recorded in found:
            file, _, class_name = name.partition(":")
            class_of_first_source(source, Path(recorded.get(SOURCE_FILE) or file), class_name)
        return list(dict.fromkeys(name for name, *_ in found))

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
            file = args.get("file", name)
            return create_strategy(self._stored(file, sha256, args.get("class", "")), params, name)
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


def recorded_strategies(run: Run) -> dict[str, tuple[str, dict[str, str]]]:
    """Return name and recorded source (see `source_of`) of a run's first strategies by sleeve.

    Without sleeves the only key is "". The source of a built-in strategy is empty.
    """
    sleeves = [one for one in run.config.get("sleeves", ()) if one.get("enabled", True)]
    if not sleeves:
        return {"": (run.strategy, _recorded(run))}
    return {one["name"]: (one["strategy"]["name"], _recorded(run, f":{one['name']}")) for one in sleeves}


def _recorded(run: Run, suffix: str = "") -> dict[str, str]:
    keys = (SOURCE_FILE, SOURCE_SHA256)
    return {key: run.versions[f"{key}{suffix}"] for key in keys if f"{key}{suffix}" in run.versions}


def _key(args: Mapping[str, str]) -> bytes:
    return msgspec.msgpack.encode(dict(args), order="deterministic")
