"""The configuration of what surrounds a running agent: who may command it, and where its past goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.core.durations import Duration
from agent.core.settings import Section
from agent.system.addresses import is_loopback
from agent.system.listener_config import ListenerConfig


def split_address(value: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. Raises ValueError for anything else, and for a host that is not this machine."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{value!r} is no address: write HOST:PORT, e.g. 127.0.0.1:8700")
    if not is_loopback(f"tcp://{value}"):
        raise ValueError(
            f"{value!r} is not on this machine: write 127.0.0.1:PORT, and reach it from outside through a tunnel"
        )
    return host.strip("[]"), int(port)


def _address(value: str) -> str:
    if value:
        split_address(value)
    return value


class ControlConfig(ListenerConfig):
    """Commands to the running agent other than by its Unix socket; who connects there must know the token."""

    # 127.0.0.1:PORT (0: a free one); empty: the Unix socket alone
    address: Annotated[str, AfterValidator(_address)] = ""
    token_file: str = ""  # made at the first start, mode 0600; empty: control.token in live.folder
    connections: int = Field(32, ge=2)  # of the socket and of the port, each
    connections_per_client: int = Field(32, ge=1)
    idle_timeout: Duration = Field(30_000, gt=0)


class ArchiveConfig(Section):
    """What `tapewire db archive` does with the journals of runs that ended, where the command line says nothing else."""

    folder: Path = Path("var/archive")
    # journals of runs that ended within this time stay as they are
    keep: Duration = Field(2_592_000_000, ge=0)
    prune: bool = False  # take out of the store what is archived
    unfinished: bool = False  # also runs that the agent could have gone on with; it won't, then


class BackupConfig(Section):
    """The backups that `tapewire db backup` makes without a file's name: which copies stay. The newest always does."""

    folder: Path = Path("var/backups")
    daily: int = Field(7, ge=0)  # the last copy of each of so many days
    weekly: int = Field(4, ge=0)
    monthly: int = Field(12, ge=0)
