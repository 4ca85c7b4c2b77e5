"""What the API sends of jobs, data files and strategies, as structs (see `api_messages`)."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.data.file_facts import FileFacts
from agent.jobs.job_records import JobState
from agent.jobs.job_summary import JobSummary
from agent.jobs.known_strategies import KnownStrategy


class JobRow(msgspec.Struct, frozen=True):
    """A job: a command of the server's command line in a process of its own. Times are 0 before they come.

    `state` is waiting, running, done, failed, cancelled, or interrupted if its server ended. `share` is the
    part that is done, `line` what is being done. `runs` are ids of the runs that it recorded.
    """

    id: str
    kind: str
    by: str
    state: JobState
    share: float
    line: str
    created_at: int
    started_at: int
    ended_at: int
    error: str
    hint: str
    runs: tuple[str, ...]
    summary: JobSummary | None
    request: dict[str, Any]  # what started it


class JobList(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    items: tuple[JobRow, ...]


class JobDetail(JobRow, frozen=True):
    """A job with its command, the end of its log, and its result: the JSON that the command prints."""

    command: str
    tail: str
    result: Any


class DataFileRow(msgspec.Struct, frozen=True):
    """A file that jobs may read, by its name; `facts` is null until the file has been read."""

    name: str
    size: int  # bytes
    changed_at: int
    facts: FileFacts | None


class DataFileList(msgspec.Struct, frozen=True):
    """Data files by name. While `reading`, facts are missing: request it again."""

    items: tuple[DataFileRow, ...]
    left_out: int  # files beyond the most that are listed
    reading: bool


class StrategyList(msgspec.Struct, frozen=True):
    """The strategies that jobs may run; files are read, not run, so bounds come with `GET /strategy`."""

    items: tuple[KnownStrategy, ...]
    configured: str  # the strategy of a job that names none; empty if sleeves trade
