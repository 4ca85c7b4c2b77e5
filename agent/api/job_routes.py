"""Handlers of the routes on jobs, data files and strategies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from agent.api.api_access import SENDER
from agent.api.job_messages import DataFileList, DataFileRow, JobDetail, JobList, JobRow, StrategyList
from agent.api.problems import RequestProblem
from agent.api.request_body import read_body
from agent.core.errors import UsageError
from agent.jobs.job_queue import JobQueue
from agent.jobs.job_records import Job
from agent.jobs.job_requests import JobRequest
from strategies.description import StrategyDescription

_LONGEST_ID = 64


class JobRoutes:
    """The handlers. `queue` is a text that states why this server runs no jobs if it doesn't."""

    def __init__(self, queue: JobQueue | str) -> None:
        self._queue = queue
        self.handlers: dict[str, Callable[[web.Request, Any], Awaitable[Any]]] = {
            "listJobs": self._list,
            "getJob": self._get,
            "startJob": self._start,
            "cancelJob": self._cancel,
            "listData": self._data,
            "listStrategies": self._strategies,
            "getStrategy": self._strategy,
        }

    def _jobs(self) -> JobQueue:
        if isinstance(self._queue, str):
            raise RequestProblem("jobs-disabled", self._queue, hint="jobs.enabled = true")
        return self._queue

    async def _list(self, _: web.Request, __: Any) -> JobList:
        return JobList(tuple(_row(job) for job in self._jobs().list()))

    async def _get(self, request: web.Request, _: Any) -> JobDetail:
        queue = self._jobs()
        job = _find(queue, request)
        result = await queue.result(job.id)
        return JobDetail(**_fields(job), command=job.command, tail=job.tail, result=result)

    async def _start(self, request: web.Request, _: Any) -> JobRow:
        queue = self._jobs()
        wanted = await read_body(request, JobRequest)
        try:
            return _row(await queue.start(wanted, request[SENDER].name))
        except UsageError as error:
            raise RequestProblem("invalid-job", error.message, hint=error.hint) from None

    async def _cancel(self, request: web.Request, _: Any) -> JobRow:
        queue = self._jobs()
        return _row(await queue.cancel(_find(queue, request).id))

    async def _data(self, _: web.Request, __: Any) -> DataFileList:
        return await list_data(self._jobs())

    async def _strategies(self, _: web.Request, __: Any) -> StrategyList:
        queue = self._jobs()
        listed = await asyncio.to_thread(queue.strategies.all)
        config = queue.config
        return StrategyList(tuple(listed), "" if config.sleeves else config.strategy.name)

    async def _strategy(self, _: web.Request, query: Any) -> StrategyDescription:
        try:
            queue = self._jobs()
            return await queue.short.describe_strategy(query.name or queue.config.strategy.name)
        except UsageError as error:
            raise RequestProblem("invalid-job", error.message, where="name", hint=error.hint) from None


async def list_data(queue: JobQueue) -> DataFileList:
    """List the files that jobs may read, and have those read whose facts are missing."""
    files, left_out = await asyncio.to_thread(queue.data.files)
    facts, reading = queue.short.facts(files)
    rows = tuple(
        DataFileRow(file.name, file.size, file.changed // 1_000_000, found)
        for file, found in zip(files, facts, strict=True)
    )
    return DataFileList(rows, left_out, reading)


def _find(queue: JobQueue, request: web.Request) -> Job:
    try:
        return queue.find(request.match_info["job"][:_LONGEST_ID])
    except UsageError as error:
        raise RequestProblem("no-job", error.message, where="job", hint=error.hint) from None


def _row(job: Job) -> JobRow:
    return JobRow(**_fields(job))


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in JobRow.__struct_fields__}
