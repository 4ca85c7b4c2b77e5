"""An executor whose threads don't keep the process alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """Runs each call in a new daemon thread, for calls that may hang.

    Neither `shutdown` nor the end of the process waits for them, unlike with `ThreadPoolExecutor`.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start the call."""
        future: Future[T] = Future()
        thread = threading.Thread(
            target=_settle, args=(future, lambda: fn(*args, **kwargs)), name=self._name, daemon=True
        )
        future.set_running_or_notify_cancel()
        thread.start()
        return future


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    with _PassOnErrors(future):
        future.set_result(call())


class _PassOnErrors:
    """Passes an error on to the waiter, whatever it is."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self._future.set_exception(error)
        return True
