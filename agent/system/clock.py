"""Clocks of the shell; the core's time is `available_at` of the event that it handles."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

from agent.core.errors import UsageError


class Clock(Protocol):
    """Source of the current time."""

    def now(self) -> int:
        """Return UTC milliseconds."""
        ...


class WallClock:
    """The machine's clock."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000


def steady_time() -> float:
    """Return the seconds of a monotonic clock that includes suspended time, if the system has one."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def speed_of(clock: Clock) -> float:
    """Return how many milliseconds of `clock` pass in a real millisecond."""
    return clock.speed if isinstance(clock, ScaledClock) else 1.0


class ScaledClock:
    """Clock that starts at `origin` (UTC ms) and runs at `speed` times real time."""

    def __init__(self, origin: int, speed: float) -> None:
        self.speed = speed
        self._origin = origin
        self._began = time.monotonic()

    def now(self) -> int:
        return self._origin + int((time.monotonic() - self._began) * 1000 * self.speed)


def iso(ms: int) -> str:
    """Format UTC milliseconds as ISO 8601, or as `… ms` outside the years 1 to 9999."""
    try:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # untrusted times are displayed too
        return f"{ms} ms"
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")


def parse_time(text: str, where: str) -> int:
    """Return the UTC ms of a date or an ISO 8601 time, UTC unless it names a zone.

    Raises UsageError, which names `where` the text was given.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{where} {text!r} is no date", hint="write 2025-01-31 or 2025-01-31T12:00Z"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
