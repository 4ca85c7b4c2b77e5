"""The only code that reads the machine's clocks. The core never does: its time is `available_at` of the event it handles."""

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


def steady_time() -> float:
    """Seconds of a clock that nobody can set. It counts the time that the machine was suspended, if the system can tell."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def speed_of(clock: Clock) -> float:
    """Milliseconds of the clock in a millisecond of the machine."""
    return clock.speed if isinstance(clock, ScaledClock) else 1.0


class ScaledClock:
    """A clock that starts at `origin` (UTC ms) and runs `speed` times as fast as the machine's monotonic clock."""

    def __init__(self, origin: int, speed: float) -> None:
        self.speed = speed
        self._origin = origin
        self._began = time.monotonic()

    def now(self) -> int:
        """UTC milliseconds of the simulated market."""
        return self._origin + int((time.monotonic() - self._began) * 1000 * self.speed)


def iso(ms: int) -> str:
    """UTC milliseconds as ISO 8601, to the second where nothing is lost; beyond the years 1 to 9999 as the number that they are."""
    try:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
    except (
        ValueError,
        OverflowError,
        OSError,
    ):  # whatever strangers send is shown, and must not end anything
        return f"{ms} ms"
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")
