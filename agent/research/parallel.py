"""Parallel work over processes, with results in order. The first error ends all of it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

Advance = Callable[[], None]
"""Called after each finished task."""


def run_parallel(
    work: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int, advance: Advance | None = None
) -> list[Result]:
    """Call `work` with each task and return the results in order.

    With one job or one task it runs in this process.

    Processes are spawned, not forked (other threads may hold locks), so `work`, tasks and results must be
    picklable. The first exception is raised here after the running tasks have ended; tasks that have not
    begun are dropped.
    """
    step = advance or (lambda: None)
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        results = []
        for task in tasks:
            results.append(work(task))
            step()
        return results

    def count(future: Future[Result]) -> None:
        if not future.cancelled() and future.exception() is None:
            step()

    with _share_cores(jobs), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        for future in futures:
            future.add_done_callback(count)
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        failed = next((f for f in futures if f.done() and not f.cancelled() and f.exception()), None)
        if failed is not None:
            failed.result()
        return [future.result() for future in futures]


@contextmanager
def _share_cores(jobs: int) -> Iterator[None]:
    """Give the numeric libraries of each new process an equal share of the cores."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = before or str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
