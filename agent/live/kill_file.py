"""Kill switch without a socket: a file in `live.folder`, and a signal. Both work from any shell."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import structlog

from agent.core.errors import SafetyError

FILE: Final = "KILL"
"""Name of the file in `live.folder`. Its text is the reason; if it contains the word `flatten`, positions are
closed too.
"""

FLATTEN: Final = "flatten"
"""Argument of a kill, and the word in the file."""

_POLL: Final = 0.25  # seconds between two checks for the file
_LONGEST: Final = 500  # characters of a reason
_log: Final = structlog.get_logger(__name__)

Kill = Callable[[dict[str, str], str], Awaitable[Any]]
"""Kills with arguments (`flatten`, `reason`) in the given name; returns once the kill is handled."""


class KillSwitch:
    """Watches for the kill file and the signal. While the file exists, the agent neither starts nor resumes.

    Anything with that name counts: a directory, a FIFO, a dangling link, an unreadable file.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self.signals = 0
        """Signals received; counted even while the event loop hangs."""
        self.signal = ""  # name of the last one
        self.kept = False
        """True if the agent itself made the file (`keep`)."""
        self._pulled = asyncio.Event()
        self._by = ""

    def refuse(self, what: str) -> None:
        """Raise SafetyError if the file exists; `what` is the refused action."""
        if self.present():
            raise SafetyError(
                f"{what} while {self.file} exists: this agent was killed", hint="remove the file first"
            )

    def present(self) -> bool:
        """True if anything with the file's name exists."""
        return os.path.lexists(self.file)

    def pull(self, by: str) -> None:
        """Kill as soon as the core runs; for signal handlers."""
        self._by = by
        self._pulled.set()

    def catch(self, number: signal.Signals) -> None:
        """Kill on a signal, handled in the running event loop.

        It is counted outside of the loop too, which works even while the loop hangs.
        """
        asyncio.get_running_loop().add_signal_handler(number, self.pull, number.name)

        def count(_: int, __: FrameType | None) -> None:  # no locks: it may interrupt any code
            self.signal = number.name
            self.signals += 1

        signal.signal(number, count)

    async def watch(self, kill: Kill, killed: Callable[[], bool]) -> None:
        """Kill when the file or signal arrives, until cancelled.

        A file that stays in place kills again after a resume.
        """
        flattened = False
        while True:
            try:
                async with asyncio.timeout(_POLL):
                    await self._pulled.wait()
            except TimeoutError:
                if self.kept or not self.present():
                    flattened = False
                    continue
                args = self.words()
                # the text may be written after the file was created
                if killed() and (flattened or FLATTEN not in args):
                    continue
                by, flattened = f"file {self.file.name}", FLATTEN in args
            else:
                self._pulled.clear()
                by, args = self._by, {}
            _log.warning("kill", by=by, **args)
            await kill(args, by)

    def words(self) -> dict[str, str]:
        """Parse the file's text into arguments of a kill; empty if the file has no readable text. Never
        blocks.
        """
        try:
            # without O_NONBLOCK a FIFO without a writer would block
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
                text = os.read(descriptor, _LONGEST).decode("utf-8", "replace") if regular else ""
            finally:
                os.close(descriptor)
        except OSError:
            return {}
        reason = " ".join(text.split())
        flatten = {FLATTEN: "true"} if FLATTEN in reason.lower().split() else {}
        return flatten | ({"reason": reason} if reason else {})

    # -- a kill that can't be journalled yet ----------------------------------------------------------

    def keep(self, args: dict[str, str], by: str) -> str:
        """Make the file, so that the kill survives this process before it is in the journal; return the
        error, if any.

        A file that exists already is not replaced; the word `flatten` is added to it if needed.
        """
        flatten = FLATTEN in args
        text = " ".join([*([FLATTEN] if flatten else []), f"by {by}", args.get("reason", "")]).strip()
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return self._add_flatten() if flatten and FLATTEN not in self.words() else ""
        except OSError as error:
            return error.strerror or str(error)
        self.kept = True
        try:
            os.write(descriptor, text.encode() + b"\n")
        except OSError as error:  # the file exists, which is enough for a kill, but not its text
            return "" if not flatten else error.strerror or str(error)
        finally:
            os.close(descriptor)
        return ""

    def _add_flatten(self) -> str:
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(descriptor, f" {FLATTEN}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def forget(self) -> None:
        """Remove the file if the agent made it: the kill is in the journal."""
        if self.kept:
            self.kept = False
            with suppress(OSError):
                self.file.unlink()
