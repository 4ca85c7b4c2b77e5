"""Bounds on what unknown clients can cause: one log line at once, then one per interval with a count; a limited response rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

EVERY: Final = 60.0
"""Seconds between two lines."""


class Throttle:
    """Counts occurrences; `due` is positive when a line may be written."""

    def __init__(self, every: float = EVERY, timer: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._every = every
        self._timer = timer
        self._last = float("-inf")
        self._reported = 0

    def due(self) -> int:
        """Count one; return how many occurred since the last line if a line may be written now, else 0."""
        self.total += 1
        now = self._timer()
        if now - self._last < self._every:
            return 0
        count, self._last, self._reported = self.total - self._reported, now, self.total
        return count


class Allowance:
    """Admits a limited number in each interval of `seconds`."""

    def __init__(
        self, limit: int, seconds: float = EVERY, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._timer = timer
        self._began = float("-inf")
        self._used = 0

    def take(self) -> bool:
        """Whether one more may pass now."""
        now = self._timer()
        if now - self._began >= self._seconds:
            self._began, self._used = now, 0
        self._used += 1
        return self._used <= self._limit
