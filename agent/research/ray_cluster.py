"""Parallel work in the workers of Ray: a cluster's, or processes of this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import ray
from ray.exceptions import ObjectLostError, WorkerCrashedError

from agent.core.errors import TapewireError, UsageError
from agent.research.cluster_worker import ContentLost, Fetch

_RETRIES: Final = 3
"""How often a call whose worker was lost is given to another one."""

_SERVER_FAILED: Final = "Starting Ray client server failed"
"""What Ray says if the head took more than its half a minute to start the server of a ray:// connection."""


class RayCluster:
    """Workers of Ray. It gives the calls of a lost worker to others.

    joblib's backend for Ray is not used: it works on a pool of actors, which doesn't repeat lost calls.
    """

    losses: tuple[type[BaseException], ...] = ()

    @property
    def slots(self) -> int:
        return int(ray.cluster_resources().get("CPU", 0))

    def open(self) -> Executor:
        return _RayExecutor()

    def close(self, *, kill: bool) -> None:
        """Do nothing: Ray ends this command's workers with the connection."""

    def publish(self, content: bytes) -> Fetch:
        return _RayContent(ray.put(content))

    def explain(self, error: BaseException) -> BaseException:
        if isinstance(error, WorkerCrashedError):
            return TapewireError(
                f"the same work has ended {_RETRIES + 1} workers",
                hint="perhaps their memory doesn't suffice: use fewer of them on a machine",
            )
        return error


class _RayExecutor(Executor):
    def __init__(self) -> None:
        self._call = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(_call)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._call.remote(fn, args, kwargs).future()
        return future


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


class _RayContent(msgspec.Struct, frozen=True):
    """Content in Ray's object store."""

    reference: Any

    def __call__(self) -> bytes:
        try:
            content: bytes = ray.get(self.reference)
        except ObjectLostError as error:
            raise ContentLost(str(self.reference)) from error
        return content


@contextmanager
def open_ray(address: str | None, jobs: int) -> Iterator[RayCluster]:
    """Connect to the Ray cluster at `address`, or start one with `jobs` workers on this machine.

    Raises UsageError if there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    local = {"num_cpus": jobs, "include_dashboard": False} if address is None else {"address": address}
    try:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
        except ConnectionError as error:
            if _SERVER_FAILED not in str(error):
                raise
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster at {address or 'this machine'}: {error}",
            hint="ray start --head; with tokens: RAY_AUTH_TOKEN, or the cluster's ~/.ray/auth_token",
        ) from None
    try:
        yield RayCluster()
    finally:
        ray.shutdown()
