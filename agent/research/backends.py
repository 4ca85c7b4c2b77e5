"""The backends of parallel work by name: loky's processes, Dask, Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agent.core.errors import UsageError, did_you_mean
from agent.research.parallel import use_cluster

BACKENDS: Final = ("loky", "dask", "ray")

_ALL: Final = 2**31
"""Jobs without a limit of their own: as many as the cluster has workers."""


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
    try:
        if name == "dask":
            from agent.research.dask_cluster import open_dask as open_cluster
        else:
            from agent.research.ray_cluster import open_ray as open_cluster  # type: ignore[assignment]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--backend {name} needs {error.name}", hint=f"pip install 'tapewire[{name}]'"
        ) from None
    with open_cluster(address, jobs) as cluster, use_cluster(cluster):
        yield jobs if address is None else min(jobs or cluster.slots, cluster.slots)
