"""The kill switch without a socket: a file in `live.folder`, and a signal. Both work from any shell, whatever else is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog

from agent.errors import SafetyError

FILE: Final = "KILL"
"""Its name in `live.folder`. Its text is the reason; with the word `flatten` in it, positions are closed too."""

_LOOK: Final = 0.25  # seconds between two looks for the file
_LONGEST: Final = 500  # characters of a reason
_log: Final = structlog.get_logger(__name__)

Kill = Callable[[dict[str, str], str], Awaitable[Any]]
"""Kills with arguments (`flatten`, `reason`) in somebody's name; returns once it is done."""


class KillSwitch:
    """Watches for the file, and hears of the signal. As long as the file is there the agent neither starts nor resumes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._pulled = asyncio.Event()
        self._by = ""

    def refuse(self, what: str) -> None:
        """Raises SafetyError where the file is there."""
        if self.file.exists():
            raise SafetyError(f"{what} while {self.file} is there: somebody killed this agent", hint="remove the file first")

    def pull(self, by: str) -> None:
        """Kill, as soon as the core runs; for handlers of signals."""
        self._by = by
        self._pulled.set()

    async def watch(self, kill: Kill, killed: Callable[[], bool]) -> None:
        """Until cancelled. A file that stays there kills again whatever has been resumed meanwhile."""
        while True:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._pulled.wait()
            except TimeoutError:
                if not self.file.exists() or killed():
                    continue
                by, args = f"file {self.file.name}", self._words()
            else:
                self._pulled.clear()
                by, args = self._by, {}
            _log.warning("kill", by=by, **args)
            await kill(args, by)

    def _words(self) -> dict[str, str]:
        try:
            with self.file.open(encoding="utf-8", errors="replace") as file:
                reason = " ".join(file.read(_LONGEST).split())
        except OSError:
            return {}
        flatten = {"flatten": "true"} if "flatten" in reason.lower().split() else {}
        return flatten | ({"reason": reason} if reason else {})
