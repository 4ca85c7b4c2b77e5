"""The backends of parallel work by name: loky's processes, Dask, Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from agent.core.errors import UsageError, did_you_mean
from agent.research.parallel import Cluster, use_cluster

BACKENDS: Final = ("loky", "dask", "ray")


@contextmanager
def open_backend(name: str, address: str | None, jobs: int) -> Iterator[int]:
    """Let the parallel work of this block run by a backend; yields how many tasks may run at a time.

    `loky` runs `jobs` processes of this machine. `dask` and `ray` run `jobs` workers of this machine or, at
    `address`, those of a cluster; `jobs` then limits them, and 0 doesn't. Raises UsageError if the backend
    isn't known or installed, or there is no cluster at the address.
    """
    if name not in BACKENDS:
        raise UsageError(
            f"--backend {name}: there is no such backend",
            hint=did_you_mean(name, BACKENDS, f"one of {', '.join(BACKENDS)}"),
        )
    if name == "loky":
        if address is not None:
            raise UsageError(
                f"--address {address} is of no cluster, since loky runs on this machine",
                hint="--backend dask or --backend ray",
            )
        yield jobs
        return
    with _open_cluster(name, address, jobs) as cluster, use_cluster(cluster):
        yield jobs if address is None else min(jobs or cluster.slots, cluster.slots)


def _open_cluster(name: str, address: str | None, jobs: int) -> AbstractContextManager[Cluster]:
    try:
        if name == "dask":
            from agent.research.dask_cluster import open_dask

            return open_dask(address, jobs)
        if address is not None:
            _use_ray_token()
        from agent.research.ray_cluster import open_ray

        return open_ray(address, jobs)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--backend {name} needs {error.name}", hint=f"pip install 'tapewire[{name}]'"
        ) from None


def _use_ray_token() -> None:
    """Let Ray send the cluster's token if this user has one, which it does only if told before its import.

    A cluster without tokens ignores it.
    """
    stated = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if stated or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
