"""Defences against untrusted peers: JSON decoding errors, throttled log lines, a limited response rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Final

import msgspec

JSON_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Exceptions that `msgspec.json.decode` can raise for untrusted input.

In this order: invalid JSON or another shape, invalid UTF-8, nesting deeper than the stack (in an unknown
field too).
"""

EVERY: Final = 60.0
"""Seconds between two log lines."""


class Throttle:
    """Counts occurrences and limits their log lines to one per interval."""

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

    @property
    def used(self) -> int:
        """How many were counted in the current interval."""
        return self._used

    def take(self) -> bool:
        """Count one; return whether it is within the limit."""
        now = self._timer()
        if now - self._began >= self._seconds:
            self._began, self._used = now, 0
        self._used += 1
        return self._used <= self._limit

    def retry_after(self) -> int:
        """Return the seconds, rounded up, until the next interval begins; at least 1."""
        return max(1, ceil(self._began + self._seconds - self._timer()))
