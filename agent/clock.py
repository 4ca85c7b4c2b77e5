"""The only code that reads the wall clock. The core never does: its time is `available_at` of the event it handles."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Source of the present, in UTC milliseconds."""

    def now(self) -> int:
        """UTC milliseconds."""
        ...


class WallClock:
    """The machine's clock."""

    def now(self) -> int:
        """UTC milliseconds."""
        return time.time_ns() // 1_000_000


class ScaledClock:
    """A clock that starts at `origin` (UTC ms) and runs `speed` times as fast as the machine's monotonic clock."""

    def __init__(self, origin: int, speed: float) -> None:
        self._origin = origin
        self._speed = speed
        self._began = time.monotonic()

    def now(self) -> int:
        """UTC milliseconds of the simulated market."""
        return self._origin + int((time.monotonic() - self._began) * 1000 * self._speed)


def iso(ms: int) -> str:
    """UTC milliseconds as ISO 8601, to the second where nothing is lost."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")
