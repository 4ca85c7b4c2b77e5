"""A thread that finishes a kill at the venue if the core doesn't.

It has an event loop and a connection of its own. A kill is first left to the core, which journals it; after
`live.kill_within`, or at once while the store can't be written, the thread queries the venue and cancels and
closes what is left.
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


class KillRequest:
    """A requested kill; `outcome` is set to what was done at the venue."""

    def __init__(self, args: dict[str, str], by: str) -> None:
        self.args = args
        self.by = by
        self.at = time.monotonic()
        self.outcome: Future[EmergencyReport] = Future()

    @property
    def flatten(self) -> bool:
        """True if positions are to be closed, too."""
        return self.args.get(FLATTEN) == "true"


class KillGuard:
    """Watches `switch`, and takes kill requests from the core's thread.

    `is_killed` returns whether the core has handled a kill, `is_store_failing` whether it can't now; the
    thread calls both. `emergency_exit` is the connection to the venue, None on paper: there the kill is only
    kept in the file KILL until it is journalled. The thread calls `done` with each report of something done.
    """

    def __init__(
        self,
        switch: KillSwitch,
        *,
        within: float,
        is_killed: Callable[[], bool],
        is_store_failing: Callable[[], bool],
        emergency_exit: EmergencyExit | None,
        done: Callable[[EmergencyReport], None],
    ) -> None:
        self.emergency_exit = emergency_exit
        self.report: EmergencyReport | None = None
        """The last one."""
        self._switch = switch
        self._within = within
        self._is_killed = is_killed
        self._is_store_failing = is_store_failing
        self._done = done
        self._requests: SimpleQueue[KillRequest] = SimpleQueue()
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

    def request(self, args: dict[str, str], by: str) -> KillRequest:
        """Register a kill by a command, which the core already has in its queue."""
        request = KillRequest(args, by)
        self._requests.put(request)
        return request

    def settle(self) -> None:
        """If the core has handled the kill, drop the file KILL and let the core send orders again."""
        if self._is_killed():
            self._taken = False
            self._settled_at = time.monotonic()
            self._switch.forget()

    def resumed(self) -> None:
        """The user has resumed: drop all earlier kill requests."""
        self._life += 1
        self._taken = False

    def holds_orders(self) -> bool:
        """True until the core has handled a kill that was carried out here: it must not send orders."""
        return self._taken and not self._is_killed()

    # -- the thread ------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        pending: list[KillRequest] = []
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
                    pending += self._new_requests()
                    if not self._is_killed():  # a kill that the core has handled was resumed from
                        pending = [request for request in pending if request.at > self._settled_at]
                    if pending and (
                        self._is_store_failing() or time.monotonic() - pending[0].at >= self._within
                    ):
                        await self._finish(pending)
                        pending = []
                    self.settle()
                except Exception as error:  # noqa: BLE001 - the kill switch survives every error
                    _log.error(
                        "the kill switch failed, and tries again", reason=f"{type(error).__name__}: {error}"
                    )
                    await asyncio.sleep(_AGAIN)
        finally:
            if self.emergency_exit is not None:
                await self.emergency_exit.close()

    def _new_requests(self) -> list[KillRequest]:
        """The kills requested since the last check."""
        found: list[KillRequest] = []
        with suppress(Empty):
            while True:
                found.append(self._requests.get_nowait())
        if self._switch.signals != self._signals:
            self._signals = self._switch.signals
            found.append(KillRequest({}, self._switch.signal))
        if self._switch.kept or not self._switch.present():
            self._file = None
        else:
            args = self._switch.words()
            if self._file is None or (FLATTEN in args and not self._file):
                self._file = FLATTEN in args
                found.append(KillRequest(args, f"file {self._switch.file.name}"))
        return found

    async def _finish(self, pending: list[KillRequest]) -> None:
        """Keep a kill that the core has not handled; cancel and close at the venue until nothing is left."""
        life, first = self._life, pending[0]
        self._keep(pending)
        emergency_exit = self.emergency_exit
        report = EmergencyReport(first.by)
        while emergency_exit is not None and self._life == life:
            flatten = any(request.flatten for request in pending)
            report = self.report = await emergency_exit.run(
                flatten=flatten, within=_WITHIN, by=first.by, wanted=lambda: self._life == life
            )
            if report.acted:
                _log.warning("kill switch at the venue", by=first.by, what=report.sentence())
                self._done(report)
            more = self._new_requests()
            pending += more
            if more:
                self._keep(more)
            if self._stopping or (report.done and flatten == any(request.flatten for request in pending)):
                break
            if not report.done:
                _log.error("THE KILL IS NOT DONE AT THE VENUE", what=report.sentence())
            await asyncio.sleep(_AGAIN)
        for request in pending:
            if request.outcome.set_running_or_notify_cancel():
                request.outcome.set_result(report)

    def _keep(self, requests: list[KillRequest]) -> None:
        requests = [request for request in requests if request.at > self._settled_at]
        if self._is_killed() or not requests:
            return
        self._taken = True
        chosen = next((request for request in requests if request.flatten), requests[0])
        if reason := self._switch.keep(chosen.args, chosen.by):
            _log.error("the kill can't be kept over a restart", file=str(self._switch.file), reason=reason)
        _log.warning("the core has not handled the kill: the kill switch takes over", by=chosen.by)
