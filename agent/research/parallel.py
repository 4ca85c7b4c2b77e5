"""Parallel work over processes, with results in order. The first error ends all of it.

Tasks run on this machine in loky's processes, or in the workers of a cluster (`use_cluster`). Results are the
same. What a lost worker was working on is done again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import structlog
from joblib.externals.loky.backend import get_context
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from agent.core.errors import TapewireError
from agent.research.cluster_worker import CallOutcome, Fetch
from agent.research.replay_inputs import ReplayInputs
from agent.research.shipment import Shipment

Task = TypeVar("Task")
Result = TypeVar("Result")

Advance = Callable[[], None]
"""Called after each finished task."""

MAX_LOSSES: Final = 3
"""How often workers may be lost in one call before it fails."""

_log: Final = structlog.get_logger(__name__)


class Pool(Protocol):
    """Processes that run calls."""

    @property
    def losses(self) -> tuple[type[BaseException], ...]:
        """Errors of a call that has to be repeated after `open`, because its worker was lost."""
        ...

    @property
    def slots(self) -> int:
        """How many calls can run at a time now."""
        ...

    def open(self) -> Executor:
        """Return what runs the calls."""
        ...

    def close(self, *, kill: bool) -> None:
        """Free what `open` returned, after its running calls or, with `kill`, at once."""
        ...

    def explain(self, error: BaseException) -> BaseException:
        """Return the error to raise for one that a call ended with."""
        ...


class Cluster(Pool, Protocol):
    """Workers that may be on other machines."""

    def publish(self, content: bytes) -> Fetch:
        """Make content available to workers; return what fetches it there."""
        ...


_CLUSTER: Final[ContextVar[Cluster | None]] = ContextVar("cluster", default=None)


@contextmanager
def use_cluster(cluster: Cluster) -> Iterator[None]:
    """Run the parallel work of this block in the workers of `cluster`."""
    token = _CLUSTER.set(cluster)
    try:
        yield
    finally:
        _CLUSTER.reset(token)


def uses_cluster() -> bool:
    """Return whether parallel work runs in a cluster now."""
    return _CLUSTER.get() is not None


def run_parallel(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    jobs: int,
    advance: Advance | None = None,
    inputs: ReplayInputs | None = None,
    output: Callable[[Task], Path] | None = None,
) -> list[Result]:
    """Call `work` with each task and return the results in order; at most `jobs` tasks run at a time.

    With one job or one task it runs in this process, unless a cluster is used.

    New processes are started, not forked (other threads may hold locks), so `work`, tasks and results must be
    picklable. The first exception is raised here after the running tasks have ended; tasks that have not
    begun are dropped. Raises TapewireError if workers are lost more than `MAX_LOSSES` times.

    For the workers of a cluster, `inputs` names the files and the store that the tasks read, and `output` the
    folder that a task writes (see `Shipment`).
    """
    step = advance or (lambda: None)
    cluster = _CLUSTER.get()
    if cluster is not None:
        shipment = Shipment(work, inputs, output, cluster.publish)
        return _run(cluster, shipment.call, shipment.receive, tasks, jobs, step)
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        results = []
        for task in tasks:
            results.append(work(task))
            step()
        return results
    return _run(
        _Processes(jobs), lambda task: (work, task), lambda _, found: CallOutcome(found), tasks, jobs, step
    )


class _Processes:
    """Processes of this machine, each with an equal share of the cores for its numeric libraries."""

    losses = (BrokenProcessPool,)

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
        self._pool: Any = None

    def open(self) -> Executor:
        environment = {"OMP_NUM_THREADS": self._threads}
        pool: Executor = ProcessPoolExecutor(self.slots, context=get_context("loky"), env=environment)
        self._pool = pool
        return pool

    def close(self, *, kill: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=kill)

    def explain(self, error: BaseException) -> BaseException:
        return error


def _run(
    pool: Pool,
    call: Callable[[Task], tuple[Any, ...]],
    receive: Callable[[Task, Any], CallOutcome | None],
    tasks: Sequence[Task],
    jobs: int,
    step: Advance,
) -> list[Any]:
    """Run `call(task)`, a function and its arguments, for each task.

    `receive` returns the outcome from what came back, or None if the call has to be repeated.
    """
    waiting = deque(range(len(tasks)))
    running: dict[Future[Any], int] = {}
    results: dict[int, Any] = {}
    errors: dict[int, BaseException] = {}
    losses, kill = 0, True
    executor = pool.open()
    try:
        while running or (waiting and not errors):
            lost: list[int] = []
            while waiting and not errors and not lost and len(running) < min(jobs, max(pool.slots, 1)):
                number = waiting.popleft()
                try:
                    running[executor.submit(*call(tasks[number]))] = number
                except pool.losses:
                    lost.append(number)
            ended = set() if lost else wait(running, return_when=FIRST_COMPLETED).done
            if lost or any(isinstance(future.exception(), pool.losses) for future in ended):
                ended = wait(running).done  # all calls of a pool end if one of its processes is lost
            for future in ended:
                number = running.pop(future)
                error = future.exception()
                if isinstance(error, pool.losses):
                    lost.append(number)
                    continue
                outcome = (
                    receive(tasks[number], future.result()) if error is None else CallOutcome(None, error)
                )
                if outcome is None:
                    waiting.appendleft(number)
                elif outcome.error is not None:
                    errors[number] = pool.explain(outcome.error)
                else:
                    results[number] = outcome.result
                    step()
            if lost and not errors:
                losses += 1
                waiting.extendleft(sorted(lost, reverse=True))
                executor = _reopen(pool, losses, len(lost))
        kill = False
    finally:
        pool.close(kill=kill)
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(tasks))]


def _reopen(pool: Pool, losses: int, tasks: int) -> Executor:
    """Return what goes on after a lost process. Raises TapewireError after too many."""
    if losses > MAX_LOSSES:
        raise TapewireError(
            f"worker processes were lost {losses} times, which is too often",
            hint="perhaps the memory doesn't suffice: use fewer --jobs",
        )
    _log.warning("a worker process was lost: what it worked on is done again", tasks=tasks, losses=losses)
    pool.close(kill=True)
    return pool.open()
