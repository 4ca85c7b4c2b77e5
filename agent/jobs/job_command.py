"""What the queue sends to the process of a job: a command, its limits, and the server's configuration."""

from __future__ import annotations

from typing import Any, Final

import msgspec

GRACE: Final = 5.0
"""Seconds in which an interrupted command may record its end before its process is killed."""


class JobCommand(msgspec.Struct, frozen=True):
    """Arguments of `tapewire`, memory in MiB, CPU time in seconds."""

    arguments: tuple[str, ...]
    config: dict[str, Any]
    memory: int
    cpu: int
    by: str = "cli"  # its sender (`agent.store.tries.Try.by`)
