"""The record of a job, and the files that keep records and results beyond the server's life.

Each server process holds the lock of a file of its own while it lives. A record that is not at its end, and
whose server's lock is free, is of a server that ended: that job was interrupted.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.core.errors import TapewireError
from agent.jobs.job_summary import JobSummary
from agent.store.private_files import make_private_folder
from agent.system.secret import write_private
from agent.system.untrusted import JSON_DECODE_ERRORS

_RECORD: Final = ".json"
_RESULT: Final = ".result"
_LOCK: Final = ".lock"


class JobState(str, Enum):
    """The life of a job; `interrupted`: its server ended."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_end(self) -> bool:
        """True if the job runs no longer."""
        return self not in (JobState.WAITING, JobState.RUNNING)


class Job(msgspec.Struct, kw_only=True):
    """A job as the list shows it. Times are UTC ms, 0: not yet.

    - `command`: what it runs, to repeat it on the server's command line.
    - `by`: who started it.
    - `share` and `line`: how much is done, and what is being done.
    - `error`, `hint`: why it failed. `tail`: the end of what the command wrote on standard error.
    - `runs`: ids of the runs that it recorded. `summary`: figures of its result.
    """

    id: str
    kind: str
    by: str
    command: str
    request: dict[str, Any]
    state: JobState = JobState.WAITING
    share: float = 0.0
    line: str = ""
    created_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    error: str = ""
    hint: str = ""
    tail: str = ""
    runs: tuple[str, ...] = ()
    summary: JobSummary | None = None
    server: str = ""


class JobRecords:
    """The files of `folder`, all of mode 0600. Raises TapewireError if they can't be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = secrets.token_hex(8)
        self._lock = -1

    def open(self) -> list[Job]:
        """Lock this server's file, and return the jobs of earlier servers that ended, oldest first."""
        try:
            make_private_folder(self._folder)
            self._lock = self._locked(self._folder / f"{self.server}{_LOCK}")
        except OSError as error:
            raise self._unwritable(error) from None
        living = set(self._living())
        found = [job for job in self._read() if job.state.is_end or job.server not in living]
        for job in found:
            if not job.state.is_end:
                job.state, job.error = JobState.INTERRUPTED, "the server that ran it ended"
                job.hint = "start it again"
                self.write(job)
        return sorted(found, key=lambda job: (job.created_at, job.id))

    def write(self, job: Job) -> None:
        """Write the record of a job."""
        self._write(self._folder / f"{job.id}{_RECORD}", msgspec.json.encode(job).decode())

    def write_result(self, job: Job, result: bytes) -> None:
        """Write the result of a job."""
        self._write(self._folder / f"{job.id}{_RESULT}", result.decode())

    def result(self, job: Job) -> msgspec.Raw | None:
        """Read the result of a job; None without one."""
        try:
            return msgspec.Raw((self._folder / f"{job.id}{_RESULT}").read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TapewireError(f"the result of job {job.id} can't be read: {error.strerror}") from None

    def forget(self, job: Job) -> None:
        """Remove the files of a job."""
        for suffix in (_RECORD, _RESULT):
            with suppress(OSError):
                (self._folder / f"{job.id}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        """Release this server's lock."""
        if self._lock >= 0:
            with suppress(OSError):
                (self._folder / f"{self.server}{_LOCK}").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def _locked(self, path: Path) -> int:
        """Create and lock a file; again, if another server took it for an abandoned one meanwhile."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
            os.close(descriptor)

    def _living(self) -> Iterator[str]:
        """Yield the servers whose lock is held; remove the locks of the others."""
        for path in self._folder.glob(f"*{_LOCK}"):
            if path.stem == self.server:
                yield path.stem
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                except BlockingIOError:
                    yield path.stem
                finally:
                    os.close(descriptor)

    def _read(self) -> Iterator[Job]:
        for path in self._folder.glob(f"*{_RECORD}"):
            try:
                job = msgspec.json.decode(path.read_bytes(), type=Job)
            except (OSError, *JSON_DECODE_ERRORS):
                continue  # it was being written when the machine stopped, or isn't one of ours
            if job.id == path.stem:
                yield job

    def _write(self, path: Path, text: str) -> None:
        try:
            write_private(path, text)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> TapewireError:
        return TapewireError(
            f"jobs can't be recorded in {self._folder}: {error.strerror}", hint="check free space and rights"
        )
