"""Jobs in processes of their own: started, watched, cancelled, and listed after the server's end.

    queue = JobQueue(config)                     # the server's; its store records the runs
    job = await queue.start(BacktestRequest(strategy="sma_cross"), by="api notebook")
    await queue.wait(job.id)
    job.state, job.summary, job.runs, await queue.result(job.id)
    await queue.close()                          # nothing is left running

A job is a command of the command line with `--json`. It has limits of time, CPU time and memory, a low
priority, and none of the server's secrets. All methods are called in one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.config import Config
from agent.core.durations import format_duration
from agent.core.errors import TapewireError, UsageError
from agent.jobs.data_folders import DataFolders
from agent.jobs.job_command import GRACE, JobCommand
from agent.jobs.job_records import Job, JobRecords, JobState
from agent.jobs.job_requests import JobSurroundings, RequestedCommand, kind_of
from agent.jobs.job_summary import runs_of, summarise
from agent.jobs.known_strategies import KnownStrategies
from agent.jobs.short_commands import MODULE, ShortCommands
from agent.jobs.watched_process import ResultTooLarge, WatchedProcess
from agent.jobs.worker_side import WorkerMessage
from agent.system.clock import Clock, WallClock
from agent.system.limited_threads import LimitedThreads, ServerBusy

FOLDER: Final = "jobs"
"""Name of the folder with the records, in live.folder."""

_MAX_RESULT: Final = 16 * 1024 * 1024  # bytes
_TAIL: Final = 16_000  # bytes of standard error
_log: Final = structlog.get_logger(__name__)


class _Running:
    """A job that waits or runs here."""

    def __init__(self, job: Job, arguments: tuple[str, ...]) -> None:
        self.job = job
        self.arguments = arguments
        self.process: WatchedProcess | None = None
        self.task: asyncio.Task[None] | None = None


class JobQueue:
    """The jobs of a server. `config` is the server's, with the URL of the store that it serves.

    Raises TapewireError if the folder of the records can't be written.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.config = config
        self.data = DataFolders(config.jobs.data)
        self.strategies = KnownStrategies(config.jobs.strategies)
        folder = config.live.folder / FOLDER
        self._surroundings = JobSurroundings(
            self.data, self.strategies, folder, config.bybit.endpoint, config.model.path
        )
        self.short = ShortCommands(config, self.data, self.strategies)
        self._clock = clock or WallClock()
        self._records = JobRecords(folder)
        self._jobs = {job.id: job for job in self._records.open()}
        self._running: dict[str, _Running] = {}
        self._turn = asyncio.Semaphore(config.jobs.parallel)
        self._threads = LimitedThreads("jobs")
        self._forget_old()

    async def start(self, request: RequestedCommand, by: str) -> Job:
        """Start a job, or have it wait for its turn. `by` names the sender.

        Raises UsageError for a file or strategy that jobs may not use, and for a file that another job
        writes; ServerBusy if too many jobs wait.
        """
        arguments = await self._threads.run(lambda: request.arguments(self._surroundings))
        written = [one for one in arguments if one.startswith("--output=")]
        other = next((one for one in self._running.values() if {*written} & {*one.arguments}), None)
        if other is not None:
            raise UsageError(
                f"{Path(written[0]).name} is being written by job {other.job.id}", hint="wait for its end"
            )
        limits = self.config.jobs
        if len(self._running) >= limits.parallel + limits.waiting:
            raise ServerBusy(
                f"{len(self._running)} jobs run or wait", hint="try again when they are done, or cancel one"
            )
        job = Job(
            id=secrets.token_hex(8),
            kind=kind_of(request),
            by=by,
            command=shlex.join(("tapewire", *arguments)),
            request=msgspec.to_builtins(request),
            created_at=self._clock.now(),
            server=self._records.server,
        )
        self._records.write(job)
        self._jobs[job.id] = job
        self._running[job.id] = running = _Running(job, arguments)
        running.task = asyncio.create_task(self._run(running))
        _log.info("job started", job=job.id, by=by, command=job.command)
        self._forget_old()
        return job

    def list(self) -> list[Job]:
        """Return the jobs, newest first."""
        return [self._current(job) for job in reversed(self._jobs.values())]

    def find(self, id: str) -> Job:
        """Return a job. Raises UsageError if it doesn't exist, or no longer."""
        if id not in self._jobs:
            raise UsageError("there is no such job", hint="GET /api/v1/jobs lists them")
        return self._current(self._jobs[id])

    async def wait(self, id: str) -> Job:
        """Return a job when it is at its end. Raises as `find`."""
        self.find(id)
        if id in self._running and (task := self._running[id].task) is not None:
            await asyncio.wait({task})
        return self.find(id)

    async def result(self, id: str) -> msgspec.Raw | None:
        """Return the JSON that the command printed; None unless it succeeded. Raises as `find`."""
        job = self.find(id)
        return await self._threads.run(lambda: self._records.result(job))

    async def cancel(self, id: str) -> Job:
        """End a job and its processes; nothing happens to one that has ended. Raises as `find`."""
        await self._end(id, JobState.CANCELLED, "cancelled")
        return self.find(id)

    async def close(self) -> None:
        """End all jobs; a later server lists them as interrupted."""
        ends = (self._end(id, JobState.INTERRUPTED, "the server ended") for id in list(self._running))
        await asyncio.gather(self.short.close(), *ends)
        self._threads.close()
        self._records.close()

    # -- one job ---------------------------------------------------------------------------------------------

    def _current(self, job: Job) -> Job:
        running = self._running.get(job.id)
        if running is not None and running.process is not None:
            job.tail = running.process.tail
        return job

    async def _end(self, id: str, state: JobState, why: str) -> None:
        self.find(id)
        running = self._running.get(id)
        if running is None or running.task is None:
            return
        running.job.state, running.job.error = state, why
        running.task.cancel()
        await asyncio.wait({running.task})
        if id in self._running:  # it was cancelled before its first step
            self._finish(running)

    async def _run(self, running: _Running) -> None:
        job = running.job
        try:
            async with self._turn:
                job.state, job.started_at = JobState.RUNNING, self._clock.now()
                job.line = "starting"
                self._records.write(job)
                await self._command(running)
                job.state, job.share = JobState.DONE, 1.0
        except TapewireError as error:
            job.state, job.error, job.hint = JobState.FAILED, error.message, error.hint
        except OSError as error:
            job.state, job.error = JobState.FAILED, f"the process can't be started: {error.strerror}"
        finally:
            self._finish(running)

    async def _command(self, running: _Running) -> None:
        job, limits = running.job, self.config.jobs
        request = JobCommand(
            running.arguments,
            self.config.model_dump(mode="json"),
            memory=limits.memory,
            cpu=limits.cpu // 1000,
            by=job.by,
        )

        def note(message: WorkerMessage) -> None:
            if message.line:
                job.share, job.line = message.share, message.line

        running.process = process = WatchedProcess(
            MODULE,
            msgspec.json.encode(request),
            on_message=note,
            check=self._check_time,
            max_message=_MAX_RESULT,
            tail=_TAIL,
            grace=GRACE,
        )
        try:
            last = await process.run()
        except ResultTooLarge:
            raise TapewireError(
                f"the result is larger than {_MAX_RESULT >> 20} MiB", hint="choose fewer variants"
            ) from None
        except msgspec.MsgspecError as error:
            raise TapewireError(f"the job failed: {error}", hint="please report it") from None
        if last is None:
            raise self._crash(process)
        if last.error:
            raise TapewireError(last.error, hint=last.hint)
        result = bytes(last.result)
        await self._threads.run(lambda: self._records.write_result(job, result))
        found = msgspec.json.decode(result)
        try:
            job.runs, job.summary = runs_of(job.kind, found), summarise(job.kind, found)
        except (LookupError, TypeError, ValueError) as error:
            _log.exception("the result of a job can't be summarised", job=job.id)
            raise TapewireError(
                "the result is not what this version expects", hint="see the server's log, and report it"
            ) from error

    def _check_time(self, elapsed: float) -> None:
        limit = self.config.jobs.timeout
        if elapsed * 1000 > limit:
            raise TapewireError(
                f"the job took longer than jobs.timeout, {format_duration(limit)}",
                hint="raise it, choose a shorter window or fewer variants, or use the command line",
            )

    def _crash(self, process: WatchedProcess) -> TapewireError:
        if process.lacked_memory():
            return TapewireError(
                "the job needs more memory than jobs.memory",
                hint="raise it, choose a shorter window or fewer variants, or use the command line",
            )
        return TapewireError(f"the job failed: {process.failure()}", hint="see the end of its log")

    def _finish(self, running: _Running) -> None:
        job = running.job
        self._current(job)
        job.ended_at, job.line = self._clock.now(), ""
        self._running.pop(job.id, None)
        try:
            self._records.write(job)
        except TapewireError as error:
            _log.error("a job could not be recorded", job=job.id, error=error.message)
        _log.info("job ended", job=job.id, state=job.state.value, error=job.error)

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.state.is_end]
        for job in ended[: max(len(ended) - self.config.jobs.kept, 0)]:
            del self._jobs[job.id]
            self._records.forget(job)
