"""File descriptors of this process: the limit and the number in use."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from typing import Final

MOST: Final = 65_536
"""The soft limit is raised to at most this."""

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
    """Number of file descriptors in use.

    Those not held by listeners are counted at most ten times a second.
    """

    def __init__(self) -> None:
        self.held = 0  # by listeners: accepted and not closed yet
        self._others = 0
        self._counted_at = float("-inf")

    def used(self, newest: int) -> int:
        """Return the number in use; `newest` is the descriptor that was opened last."""
        now = time.monotonic()
        if now - self._counted_at >= _COUNT_EVERY:
            try:
                self._others = len(os.listdir(_OPEN_FILES)) - 1 - self.held
            except FileNotFoundError:
                self._others = newest + 1 - self.held  # the system assigns the lowest free number
            except OSError:
                return MOST  # counting needs a descriptor, and all are in use
            self._counted_at = now
        return self._others + self.held


DESCRIPTORS: Final = Descriptors()
"""The counter of this process."""
