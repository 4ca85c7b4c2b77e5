"""Commands that the server itself needs in a process: they import a strategy, or read large files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from agent.config import Config
from agent.core.errors import TapewireError
from agent.data.file_facts import FileFacts
from agent.jobs.data_folders import DataFile, DataFolders
from agent.jobs.job_command import JobCommand
from agent.jobs.known_strategies import KnownStrategies
from agent.jobs.watched_process import WatchedProcess
from strategies import BUILT_IN, strategy_class
from strategies.description import StrategyDescription, describe_strategy

MODULE: Final = "agent.cli.job_worker"
"""What runs a command in a process."""

_TIMEOUT: Final = 300  # seconds
_MAX_RESULT: Final = 4 * 1024 * 1024
_TAIL: Final = 4_000
_BATCH: Final = 20  # files that one process reads


class ShortCommands:
    """Runs commands one at a time, and keeps what they found as long as the files are unchanged."""

    def __init__(self, config: Config, data: DataFolders, strategies: KnownStrategies) -> None:
        self._config = config.model_dump(mode="json")
        self._memory = config.jobs.memory
        self._data = data
        self._strategies = strategies
        self._turn = asyncio.Semaphore(1)
        self._facts: dict[DataFile, FileFacts] = {}
        self._described: dict[tuple[str, int], StrategyDescription] = {}
        self._reading: asyncio.Task[None] | None = None

    def facts(self, files: Sequence[DataFile]) -> tuple[list[FileFacts | None], bool]:
        """Return what is known of each file, and whether the others are being read.

        A file's facts are read again once its size or time of change differs.
        """
        self._facts = {file: self._facts[file] for file in files if file in self._facts}
        unknown = [file for file in files if file not in self._facts]
        if unknown and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read(unknown[:_BATCH]))
        return [self._facts.get(file) for file in files], bool(unknown)

    async def describe_strategy(self, name: str) -> StrategyDescription:
        """Describe a strategy with its parameters' bounds. Raises UsageError for one that isn't listed, and
        TapewireError if its file can't be imported.
        """
        if name in BUILT_IN:
            return describe_strategy(name, strategy_class(name))
        found = await asyncio.to_thread(self._strategies.find, name)
        file = f"{found.rpartition('.py')[0]}.py"  # without :Class
        changed = (await asyncio.to_thread(Path(file).stat)).st_mtime_ns
        if (found, changed) not in self._described:
            shown = await self._run("strategy", "show", "--json", "--", found)
            self._described[found, changed] = msgspec.json.decode(shown, type=StrategyDescription)
        described = self._described[found, changed]
        return msgspec.structs.replace(described, name=name, file="")

    async def close(self) -> None:
        """End what runs."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _read(self, files: Sequence[DataFile]) -> None:
        """Read files in one process; if it fails, each in one of its own: the others may be fine."""
        try:
            read = msgspec.json.decode(
                await self._run("data", "--json", "--", *(str(one.path) for one in files)),
                type=list[FileFacts],
            )
        except TapewireError as error:
            if len(files) > 1:
                for one in files:
                    await self._read([one])
                return
            read = [FileFacts("unknown", note=error.message)]
        self._facts |= dict(zip(files, read, strict=True))

    async def _run(self, *arguments: str) -> msgspec.Raw:
        request = JobCommand(arguments, self._config, memory=self._memory, cpu=_TIMEOUT)
        async with self._turn:
            process = WatchedProcess(
                MODULE,
                msgspec.json.encode(request),
                on_message=lambda _: None,
                check=_check,
                max_message=_MAX_RESULT,
                tail=_TAIL,
            )
            try:
                last = await process.run()
            except OSError as error:
                raise TapewireError(f"the process can't be started: {error.strerror}") from None
        if last is None:
            raise TapewireError(process.failure())
        if last.error:
            raise TapewireError(last.error, hint=last.hint)
        return last.result


def _check(elapsed: float) -> None:
    if elapsed > _TIMEOUT:
        raise TapewireError(f"it took longer than {_TIMEOUT} s")
