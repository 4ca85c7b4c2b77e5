"""Many like pieces of work over several processes, in order, with the first error ending all."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Advance = Callable[[], None]
"""Called when one more piece is done."""


def spread(
    work: Callable[[Task], Answer], tasks: Sequence[Task], *, jobs: int, advance: Advance | None = None
) -> list[Answer]:
    """`work` of each task, in the order of `tasks`. With one job, or one task, it is done in this process.

    Processes are started afresh (no forks of threads), so `work`, tasks and answers must be picklable. What one raises is
    raised here, after the work under way has ended; the rest isn't begun.
    """
    tell = advance or (lambda: None)
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        answers = []
        for task in tasks:
            answers.append(work(task))
            tell()
        return answers

    def done(future: Future[Answer]) -> None:
        if not future.cancelled() and future.exception() is None:
            tell()

    with _one_thread_each(jobs), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        for future in futures:
            future.add_done_callback(done)
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        failed = next(
            (future for future in futures if future.done() and not future.cancelled() and future.exception()),
            None,
        )
        if failed is not None:
            failed.result()
        return [future.result() for future in futures]


@contextmanager
def _one_thread_each(jobs: int) -> Iterator[None]:
    """Numeric libraries of the processes share the cores instead of each taking all of them."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = before or str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
