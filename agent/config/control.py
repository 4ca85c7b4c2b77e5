"""Configuration of the control port, of archiving and of backups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.core.durations import Duration
from agent.core.settings import Section
from agent.system.addresses import is_loopback
from agent.system.listener_config import ListenerConfig


def split_address(value: str) -> tuple[str, int]:
    """Split `HOST:PORT`. Raises ValueError for anything else, and if the host is not this machine."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{value!r} is not an address: write HOST:PORT, e.g. 127.0.0.1:8700")
    if not is_loopback(f"tcp://{value}"):
        expected = "write 127.0.0.1:PORT, and reach it from outside through a tunnel"
        raise ValueError(f"{value!r} is not on this machine: {expected}")
    return host.strip("[]"), int(port)


def _address(value: str) -> str:
    if value:
        split_address(value)
    return value


class ControlConfig(ListenerConfig):
    """TCP port for commands to the running agent, beside its Unix socket; clients must send the token."""

    # 127.0.0.1:PORT (0: a free one); empty: only the Unix socket
    address: Annotated[str, AfterValidator(_address)] = ""
    token_file: str = ""  # created at the first start, mode 0600; empty: control.token in live.folder
    connections: int = Field(32, ge=2)  # for the socket and the port each
    connections_per_client: int = Field(32, ge=1)
    idle_timeout: Duration = Field(30_000, gt=0)


class ArchiveConfig(Section):
    """Defaults of `tapewire db archive`, which archives the journals of runs that ended."""

    folder: Path = Path("var/archive")
    # journals of runs that ended more recently are left in the store
    keep: Duration = Field(2_592_000_000, ge=0)
    prune: bool = False  # remove archived journals from the store
    unfinished: bool = False  # also archive runs that could be resumed; they can't be resumed afterwards


class BackupConfig(Section):
    """Backups that `tapewire db backup` keeps if it is called without a file name.

    The newest is always kept.
    """

    folder: Path = Path("var/backups")
    daily: int = Field(7, ge=0)  # the last backup of each of this many days
    weekly: int = Field(4, ge=0)
    monthly: int = Field(12, ge=0)
