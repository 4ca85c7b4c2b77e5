"""The strategies that jobs may run: those built in, and those of the files in the folder of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agent.core.errors import UsageError, did_you_mean
from strategies import BUILT_IN, strategy_class
from strategies.description import describe_strategy
from strategies.source_scan import FoundStrategy, scan_folder

_MAX_NAME: Final = 200


class KnownStrategy(msgspec.Struct, frozen=True):
    """A strategy by the name that a job is given.

    `parameters` has their defaults as texts; "" without one.
    """

    name: str
    built_in: bool
    doc: str
    reads: tuple[str, ...]
    parameters: dict[str, str]


class KnownStrategies:
    """Looks through `folder`, as `tapewire strategy list FOLDER` does: files are parsed, not run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[KnownStrategy]:
        """List the strategies, built-in ones first."""
        rows = []
        for name in BUILT_IN:
            found = describe_strategy(name, strategy_class(name))
            defaults = {one.name: one.text(one.default) for one in found.parameters}
            rows.append(KnownStrategy(name, True, found.doc.partition("\n")[0], found.reads, defaults))
        return rows + [
            KnownStrategy(self._shown(one), False, one.doc, one.reads, one.parameters) for one in self._own()
        ]

    def find(self, name: str) -> str:
        """Return what the command line calls a strategy. Raises UsageError for one that isn't listed."""
        if name in BUILT_IN:
            return name
        own = {self._shown(one): one.name for one in self._own()}
        if name not in own:
            known = [*BUILT_IN, *own]
            raise UsageError(
                f"unknown strategy {name[:_MAX_NAME]!r}",
                hint=did_you_mean(name[:_MAX_NAME], known, f"one of {', '.join(known)}"),
            )
        return own[name]

    def _own(self) -> list[FoundStrategy]:
        return scan_folder(self._folder).strategies if self._folder.is_dir() else []

    def _shown(self, found: FoundStrategy) -> str:
        return found.name.replace(str(found.file), found.file.relative_to(self._folder).as_posix(), 1)
