"""Jobs that fold a recorded run again: one process at a time, with limits of time and memory.

A job ends early if it is cancelled, if its time is up, or if no browser has fetched it in a while. Nothing
of a run is changed.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from agent.analysis.report.twin_view import TwinView
from agent.analysis.story_table import StoryTable
from agent.core.durations import format_duration
from agent.core.errors import TapewireError, UsageError
from agent.dashboard.replay_worker import ReplayRequest, Work
from agent.jobs.watched_process import ResultTooLarge, WatchedProcess
from agent.jobs.worker_side import WorkerMessage
from agent.replay.what_if_request import WhatIfRequest
from agent.store.database import Database
from agent.store.runs import Run, RunStatus
from agent.system.limited_threads import ServerBusy

ABANDONED: Final = 150.0
"""Seconds after which a job ends if no page fetches it. Pages in the background fetch once a minute."""

_MAX_UNFINISHED: Final = 4  # jobs that run or wait
_MAX_KEPT: Final = 12  # finished jobs
_MAX_RESULT: Final = 8 * 1024 * 1024  # bytes; it is decoded in the agent's event loop
_TAIL: Final = 4_000  # bytes of standard error that are kept
_RESULTS: Final[dict[Work, Any]] = {
    "twin": TwinView,
    "stories": StoryTable,
    "whatif": dict[str, Any],
}
_log: Final = structlog.get_logger(__name__)


class ReplayJob:
    """One job: `share` is done; in the end it has either a `result` or an `error`."""

    def __init__(self, work: Work, run: Run, what_if: WhatIfRequest) -> None:
        self.id = secrets.token_hex(8)
        self.work: Work = work
        self.run = run
        self.what_if = what_if
        self.share = 0.0
        self.waiting = True  # for an earlier job
        self.result: Any = None
        self.error: TapewireError | None = None
        self.task: asyncio.Task[None] | None = None
        self.fetched_at = 0.0  # by a browser, monotonic seconds
        self.is_kept = False  # not ended if no browser fetches it

    @property
    def done(self) -> bool:
        """True if it has a result or an error."""
        return self.error is not None or self.result is not None

    def serves(self, work: Work, run: Run) -> bool:
        """Return whether its result is the wanted one; what-ifs are never shared."""
        return (
            work != "whatif"
            and self.error is None
            and (self.work, self.run.id, self.run.finished_at) == (work, run.id, run.finished_at)
            and not (self.done and run.status is RunStatus.RUNNING)
        )


class ReplayJobs:
    """Starts, shares, watches and cancels jobs.

    `folder` is live.folder; `timeout` is in ms, `memory` in MiB.
    """

    def __init__(self, database: Database, folder: Path | None, *, timeout: int, memory: int) -> None:
        self._database = database
        self._folder = folder
        self._timeout = timeout / 1000
        self._memory = memory
        self._jobs: dict[str, ReplayJob] = {}
        self._turn = asyncio.Semaphore(1)

    def start(self, work: Work, run: Run, what_if: WhatIfRequest | None = None) -> ReplayJob:
        """Return the job that does `work`, which may have been started before.

        Raises ServerBusy if too many jobs wait, and UsageError if the store is in memory.
        """
        shared = next((job for job in self._jobs.values() if job.serves(work, run)), None)
        if shared is not None:
            return self._fetched(shared)
        if self._database.is_sqlite and self._database.file is None:
            raise UsageError("a store in memory can't be read by another process")
        if sum(not job.done for job in self._jobs.values()) >= _MAX_UNFINISHED:
            raise ServerBusy(
                "other runs are being folded", hint="try again when they are done, or cancel one"
            )
        job = self._fetched(ReplayJob(work, run, what_if or WhatIfRequest()))
        self._jobs[job.id] = job
        finished = [one for one in self._jobs.values() if one.done]
        for oldest in finished[: max(len(finished) - _MAX_KEPT, 0)]:
            del self._jobs[oldest.id]
        job.task = asyncio.create_task(self._run(job))
        return job

    def find(self, id: str) -> ReplayJob:
        """Return a job. Raises UsageError if it doesn't exist, or no longer."""
        if id not in self._jobs:
            raise UsageError("there is no such job", hint="start it again")
        return self._fetched(self._jobs[id])

    def known(self, work: Work, run: Run) -> Any:
        """Return the result of a finished job; None without one."""
        return next((job.result for job in self._jobs.values() if job.done and job.serves(work, run)), None)

    async def cancel(self, id: str) -> None:
        """End a job. Raises UsageError if it doesn't exist."""
        job = self.find(id)
        if job.task is not None and not job.done:
            job.error = TapewireError("cancelled")
            job.task.cancel()
            await asyncio.wait({job.task})

    async def close(self) -> None:
        """End all jobs."""
        for id in list(self._jobs):
            await self.cancel(id)

    def _fetched(self, job: ReplayJob) -> ReplayJob:
        job.fetched_at = asyncio.get_running_loop().time()
        return job

    async def _run(self, job: ReplayJob) -> None:
        try:
            async with self._turn:
                job.waiting = False
                await self._fold(job)
        except TapewireError as error:
            job.error = error
        except OSError as error:
            job.error = TapewireError(f"the process can't be started: {error.strerror}")

    async def _fold(self, job: ReplayJob) -> None:
        request = ReplayRequest(
            work=job.work,
            url=self._database.engine.url.render_as_string(hide_password=False),
            run=job.run.id,
            folder=str(self._folder or ""),
            memory=self._memory,
            what_if=job.what_if,
        )

        def note(message: WorkerMessage) -> None:
            job.share = message.share

        process = WatchedProcess(
            "agent.dashboard.replay_worker",
            msgspec.json.encode(request),
            on_message=note,
            check=lambda elapsed: self._check(job, elapsed),
            max_message=_MAX_RESULT,
            tail=_TAIL,
        )
        try:
            last = await process.run()
            if last is None:
                raise self._crash(job, process)
            if last.error:
                raise TapewireError(last.error, hint=last.hint)
            job.result = msgspec.json.decode(last.result, type=_RESULTS[job.work])
        except msgspec.MsgspecError as error:
            raise TapewireError(f"the run could not be folded: {error}", hint="please report it") from None
        except ResultTooLarge:
            raise TapewireError("the result is too large for the page", hint="use the command line") from None

    def _check(self, job: ReplayJob, elapsed: float) -> None:
        """Raise TapewireError at a limit."""
        if elapsed > self._timeout:
            raise TapewireError(
                f"the run could not be folded in {format_duration(round(self._timeout * 1000))}",
                hint="raise dashboard.replay_timeout, or use the command line, which has no limit",
            )
        if not job.is_kept and asyncio.get_running_loop().time() - job.fetched_at > ABANDONED:
            raise TapewireError("cancelled, because no page asked for the result")

    def _crash(self, job: ReplayJob, process: WatchedProcess) -> TapewireError:
        _log.error(
            "a run could not be folded",
            run=job.run.id,
            work=job.work,
            exit_code=process.exit_code,
            stderr=process.tail,
        )
        if process.lacked_memory():
            return TapewireError(
                "the run needs more memory than dashboard.replay_memory",
                hint="raise it, or use the command line, which has no limit",
            )
        return TapewireError(f"the run could not be folded: {process.failure()}", hint="see the log")
