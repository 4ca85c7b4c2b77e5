"""File descriptors of this process: how many it may use, and how many it uses."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from typing import Final

MOST: Final = 65_536
"""The limit is raised to no more than this."""

_COUNT_EVERY: Final = 0.1  # seconds
_OPEN_FILES: Final = "/dev/fd"


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit, 65,536 at most; return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft


class Descriptors:
    """How many file descriptors this process uses. Those of others than listeners are counted ten times a second at most."""

    def __init__(self) -> None:
        self.held = 0  # accepted by listeners, and not closed yet
        self._others = 0
        self._counted_at = float("-inf")

    def used(self, newest: int) -> int:
        """The number in use; `newest` is the one that was given out last."""
        now = time.monotonic()
        if now - self._counted_at >= _COUNT_EVERY:
            try:
                self._others = len(os.listdir(_OPEN_FILES)) - 1 - self.held
            except FileNotFoundError:
                self._others = newest + 1 - self.held  # the system gives the lowest free one
            except OSError:
                return MOST  # no descriptor is left to count with
            self._counted_at = now
        return self._others + self.held


DESCRIPTORS: Final = Descriptors()
"""Of this process."""
