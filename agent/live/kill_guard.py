"""The kill switch's second way: a thread that finishes a kill at the venue if the core doesn't.

It has an event loop and a connection of its own. A kill is first left to the core, which journals it; after `live.kill_within`, or at
once while the store can't be written, the thread queries the venue and cancels and closes what is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from agent.live.emergency_close import EmergencyExit, EmergencyReport
from agent.live.kill_file import FLATTEN, KillSwitch

_LOOK: Final = 0.25  # seconds between two checks
_WITHIN: Final = 60.0  # seconds for one attempt at the venue
_AGAIN: Final = 1.0  # seconds between two attempts
_JOIN: Final = 15.0  # seconds that the agent waits for an attempt when it stops
_log: Final = structlog.get_logger(__name__)


class Pull:
    """A requested kill; `outcome` is what was done at the venue."""

    def __init__(self, args: dict[str, str], by: str) -> None:
        self.args = args
        self.by = by
        self.at = time.monotonic()
        self.outcome: Future[EmergencyReport] = Future()

    @property
    def flatten(self) -> bool:
        """Positions are to be closed, too."""
        return self.args.get(FLATTEN) == "true"


class KillGuard:
    """Watches `switch`, and takes pulls from the core's thread.

    `killed` returns whether the core has handled a kill, `unable` whether it can't now; the thread calls both. `way_out` is the
    connection to the venue, None on paper: there the kill is only kept in the file KILL until it is journalled. The thread calls
    `done` with each report of something done.
    """

    def __init__(
        self,
        switch: KillSwitch,
        *,
        within: float,
        killed: Callable[[], bool],
        unable: Callable[[], bool],
        way_out: EmergencyExit | None,
        done: Callable[[EmergencyReport], None],
    ) -> None:
        self.way_out = way_out
        self.report: EmergencyReport | None = None
        """The last one."""
        self._switch = switch
        self._within = within
        self._killed = killed
        self._unable = unable
        self._done = done
        self._pulls: SimpleQueue[Pull] = SimpleQueue()
        self._signals = switch.signals
        self._file: bool | None = None  # whether the file that was seen requests to flatten; None: no file
        self._taken = False  # the kill was taken over from a core that has not handled it
        self._settled_at = 0.0  # monotonic: the core has handled all kills requested up to then
        self._life = 0  # counts resumptions
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()  # of the thread's loop
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=lambda: context.run(asyncio.run, self._watch()), name="kill guard", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop after the attempt in progress; may be called twice."""
        self._stopping = True
        with suppress(RuntimeError):  # its loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)
        await asyncio.to_thread(self._thread.join, _JOIN)
        self.settle()

    def pull(self, args: dict[str, str], by: str) -> Pull:
        """Register a kill by a command, which the core already has in its queue."""
        pull = Pull(args, by)
        self._pulls.put(pull)
        return pull

    def settle(self) -> None:
        """If the core has handled the kill, drop the file KILL and let the core send orders again."""
        if self._killed():
            self._taken = False
            self._settled_at = time.monotonic()
            self._switch.forget()

    def resumed(self) -> None:
        """The user has resumed: drop all earlier kill requests."""
        self._life += 1
        self._taken = False

    def holds(self) -> bool:
        """Whether the core has yet to handle a kill that was carried out here: until then it must not send orders."""
        return self._taken and not self._killed()

    # -- the thread --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        pending: list[Pull] = []
        life = self._life
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopping:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._wake.wait()
                try:
                    if self._life != life:
                        life, pending = self._life, []
                    pending += self._new()
                    if not self._killed():  # a kill that the core has handled was resumed from
                        pending = [pull for pull in pending if pull.at > self._settled_at]
                    if pending and (self._unable() or time.monotonic() - pending[0].at >= self._within):
                        await self._finish(pending)
                        pending = []
                    self.settle()
                except Exception as error:  # noqa: BLE001 - the kill switch survives every error
                    _log.error(
                        "the kill switch failed, and tries again", reason=f"{type(error).__name__}: {error}"
                    )
                    await asyncio.sleep(_AGAIN)
        finally:
            if self.way_out is not None:
                await self.way_out.close()

    def _new(self) -> list[Pull]:
        """The kills requested since the last check."""
        found: list[Pull] = []
        with suppress(Empty):
            while True:
                found.append(self._pulls.get_nowait())
        if self._switch.signals != self._signals:
            self._signals = self._switch.signals
            found.append(Pull({}, self._switch.signal))
        if self._switch.kept or not self._switch.present():
            self._file = None
        else:
            args = self._switch.words()
            if self._file is None or (FLATTEN in args and not self._file):
                self._file = FLATTEN in args
                found.append(Pull(args, f"file {self._switch.file.name}"))
        return found

    async def _finish(self, pending: list[Pull]) -> None:
        """Keep the kill if the core has not handled it, and cancel and close at the venue until nothing is left there."""
        life, first = self._life, pending[0]
        self._keep(pending)
        way_out = self.way_out
        report = EmergencyReport(first.by)
        while way_out is not None and self._life == life:
            flatten = any(pull.flatten for pull in pending)
            report = self.report = await way_out.run(
                flatten=flatten, within=_WITHIN, by=first.by, wanted=lambda: self._life == life
            )
            if report.acted:
                _log.warning("kill switch at the venue", by=first.by, what=report.sentence())
                self._done(report)
            more = self._new()
            pending += more
            if more:
                self._keep(more)
            if self._stopping or (report.done and flatten == any(pull.flatten for pull in pending)):
                break
            if not report.done:
                _log.error("THE KILL IS NOT DONE AT THE VENUE", what=report.sentence())
            await asyncio.sleep(_AGAIN)
        for pull in pending:
            if pull.outcome.set_running_or_notify_cancel():
                pull.outcome.set_result(report)

    def _keep(self, pulls: list[Pull]) -> None:
        pulls = [pull for pull in pulls if pull.at > self._settled_at]
        if self._killed() or not pulls:
            return
        self._taken = True
        chosen = next((pull for pull in pulls if pull.flatten), pulls[0])
        if reason := self._switch.keep(chosen.args, chosen.by):
            _log.error("the kill can't be kept over a restart", file=str(self._switch.file), reason=reason)
        _log.warning("the core has not handled the kill: the kill switch takes over", by=chosen.by)
