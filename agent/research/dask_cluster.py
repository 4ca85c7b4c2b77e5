"""Parallel work in the workers of Dask: a cluster's, or processes of this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, Final

import dask
import msgspec
from distributed import Client, KilledWorker, LocalCluster

from agent.core.errors import TapewireError, UsageError
from agent.research.cluster_worker import ContentLost, Fetch, forget

_CONNECT: Final = 10.0  # seconds
_FIRST_WORKER: Final = 60.0  # seconds


class DaskCluster:
    """Workers of a Dask scheduler. It gives the calls of a lost worker to others; each process has one call.

    joblib's backend for Dask is not used: it waits forever for a call that ends without a result, such as one
    that has ended its worker several times.
    """

    losses: tuple[type[BaseException], ...] = ()

    def __init__(self, client: Client) -> None:
        self._client = client
        self._published: dict[str, Any] = {}

    @property
    def slots(self) -> int:
        return len(self._client.nthreads())

    def open(self) -> Executor:
        return _DaskExecutor(self._client, self._published)

    def close(self, *, kill: bool) -> None:
        self._published.clear()  # frees the memory of the workers
        self._client.run(forget, on_error="ignore")

    def publish(self, content: bytes) -> Fetch:
        """Keep content as the result of a call, which Dask repeats if the worker that has it is lost."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Dask warns of large arguments
            future = self._client.submit(_content, content, pure=False)
        self._published[future.key] = future
        return _DaskContent(future.key)

    def explain(self, error: BaseException) -> BaseException:
        if isinstance(error, KilledWorker):
            return TapewireError(
                f"the same work has ended {error.allowed_failures + 1} workers: {error}",
                hint="perhaps their memory doesn't suffice: use fewer of them on a machine",
            )
        return error


class _DaskExecutor(Executor):
    """Passes calls to a client, with all published content, which Dask moves to each worker once."""

    def __init__(self, client: Client, published: dict[str, Any]) -> None:
        self._executor = client.get_executor(pure=False)
        self._published = published

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(_call, fn, args, kwargs, dict(self._published))
        return future


_AT_HAND: Final[dict[str, bytes]] = {}
"""Published content of the call that runs in this worker."""


def _call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], content: dict[str, bytes]
) -> Any:
    _AT_HAND.update(content)
    try:
        return fn(*args, **kwargs)
    finally:
        _AT_HAND.clear()


def _content(content: bytes) -> bytes:
    return content


class _DaskContent(msgspec.Struct, frozen=True):
    """Content that Dask keeps under a key."""

    key: str

    def __call__(self) -> bytes:
        try:
            return _AT_HAND[self.key]
        except KeyError:
            raise ContentLost(self.key) from None


@contextmanager
def open_dask(address: str | None, jobs: int) -> Iterator[DaskCluster]:
    """Connect to the scheduler at `address`, or start `jobs` workers on this machine.

    Raises UsageError if there is no scheduler, or it has no worker.
    """
    if address is None:
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 3}),
            LocalCluster(
                n_workers=jobs, threads_per_worker=1, dashboard_address=None, silence_logs=50
            ) as local,
            Client(local) as client,
        ):
            yield DaskCluster(client)
        return
    place = address.rpartition("/")[2]  # a URL would be masked
    try:
        client = Client(address, timeout=_CONNECT)
    except (OSError, TimeoutError, ValueError):
        raise UsageError(
            f"no Dask scheduler answers at {place}", hint="start one: dask scheduler, then dask worker"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER)
        except TimeoutError:
            raise UsageError(
                f"the Dask scheduler at {place} has no worker", hint="dask worker ADDRESS"
            ) from None
        yield DaskCluster(client)
