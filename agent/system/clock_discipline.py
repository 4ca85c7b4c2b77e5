"""The live agent's clock: monotonic progress from an anchor that moves only if two sources agree.

Three sources provide the time: the system clock, the venue's clock, and monotonic progress since the anchor.
The system clock can be stepped by hours, the venue can send a wrong stamp, and a monotonic clock drifts or
stops while the machine is suspended. The majority wins: a source that disagrees with the other two changes
only the status.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from agent.core.durations import format_duration
from agent.core.events import HOUR_MS, MINUTE_MS
from agent.system.clock import Clock, steady_time

TOLERANCE: Final = 2_000
"""Largest difference in ms between two sources that agree."""

SLOWEST: Final = 5_000
"""Longest round trip in ms of a request that measures the venue's time."""

_HEALED: Final = 1_000  # ms; a source that disagreed must come this close to agree again
_SLEW: Final = 0.0005  # correction of a small difference, as a fraction of the elapsed time
_FORGOTTEN: Final = 900_000  # ms without the venue, after which monotonic progress doesn't count as a source
_FRESH: Final = 300_000  # ms for which a measurement of the venue's time is used
_FRAMES: Final = 5  # stream messages whose median is used
_LATE: Final = 60_000  # ms by which messages of a new connection may be late
_PREEMPTED: Final = 20.0  # ms between reading two clocks, beyond which both are read again
_MOST_ELAPSED: Final = 60_000.0  # ms; most that counts as elapsed between two checks

Trouble = Literal["", "unconfirmed", "system", "venue", "all", "run"]
"""Fault: none, venue's time unknown, system clock, venue's clock, no two agree, run's time ahead of all."""


class ClockStatus(msgspec.Struct, frozen=True):
    """State of the agent's clock. Differences are in ms, positive if the source is ahead of it."""

    trouble: Trouble = ""
    detail: str = ""
    system_ms: int = 0  # the system clock
    venue_ms: int | None = None  # the venue's clock at its last measurement; None if it was never measured
    steps: int = 0  # how often the agent's time jumped


class DisciplinedClock:
    """Clock that combines the system clock `wall`, the monotonic clock `steady` (seconds) and the venue's.

    The caller passes each measurement of the venue's time to `add_measurement` and each stamp of the stream
    to `add_stamp`, and calls `check` about once a second.
    """

    def __init__(self, wall: Clock, steady: Callable[[], float] = steady_time) -> None:
        self.confirmed = False
        """Whether the venue's time is known at all: until then this is the system clock's time."""
        self.steps = 0
        self._anchored = False  # by a measurement: then monotonic progress is a source of its own
        self._wall = wall
        self._source = steady
        self._error = 0.0  # ms, of the measurement that set the anchor
        self._late = 0.0  # ms by which the messages that set the anchor may have been late
        self._offset = self._system()  # UTC ms at zero of the monotonic clock
        self._venue: float | None = None  # the same offset by the last measurement of the venue's clock
        self._measured_at = 0.0  # monotonic ms of that measurement
        self._venue_known_at = self.steady()  # monotonic ms at which the venue's time was last known
        self._frames: deque[float] = deque(maxlen=_FRAMES)
        self._checked_at = self.steady()
        self._wrong: set[str] = set()

    def steady(self) -> float:
        """Return the milliseconds of the monotonic clock."""
        return self._source() * 1000

    def now(self) -> int:
        return int(self._offset + self.steady())

    def latest(self, tolerance: int) -> int | None:
        """Return the latest time (UTC ms) that an event may have; None while the time is not confirmed."""
        return self.now() + tolerance if self.confirmed else None

    # -- the venue's time ------------------------------------------------------------------------------------

    def add_measurement(self, theirs: int, sent: float) -> bool:
        """Add the venue's time `theirs` (UTC ms), received for a request sent at `sent` (monotonic ms).

        Returns False, and ignores it, if the round trip took longer than `SLOWEST`.
        """
        arrived = self.steady()
        if arrived - sent > SLOWEST:
            return False
        self._measured_at = arrived
        self._compare(theirs - (sent + arrived) / 2, (arrived - sent) / 2)
        return True

    def add_stamp(self, stamp: int) -> None:
        """Add the stamp (UTC ms) of a stream message, which may be late: only a stamp ahead is evidence."""
        self._frames.append(stamp - self.steady())
        if len(self._frames) < _FRAMES:
            return
        median = sorted(self._frames)[_FRAMES // 2]
        ahead = median - self._offset
        if ahead > TOLERANCE or (not self.confirmed and ahead < -_LATE):
            self._frames.clear()
            self._compare(median, 0.0, late=_LATE)
        elif not self.confirmed:
            self.confirmed = True  # within what late messages can show
        elif ahead >= -TOLERANCE:
            self._venue_known_at = self.steady()

    def _compare(self, venue: float, error: float, late: float = 0.0) -> None:
        """Compare with the venue's offset `venue`, known to within `error` ms; that of messages may be too
        small by `late` ms. Follow it if it is a finer measurement of the same time, or if a majority agrees.
        """
        now = self.steady()
        alone = not self._anchored or now - self._venue_known_at > _FORGOTTEN
        self._venue_known_at = now
        self._venue = venue
        ahead = venue - self._offset
        finer = error + late < self._error + self._late and -self._error <= ahead <= self._error + self._late
        agrees = abs(ahead) <= (error if alone else TOLERANCE + error)
        follow = finer or (not agrees and (alone or abs(venue - self._system()) <= TOLERANCE + error))
        if agrees or follow:
            self.confirmed = self._anchored = True
        if follow:
            self._offset, self._error, self._late = venue, error, late
            if not finer or abs(ahead) > TOLERANCE:
                self._frames.clear()
                self.steps += 1

    # -- comparison ------------------------------------------------------------------------------------------

    def check(self) -> ClockStatus:
        """Compare the sources, and correct small differences slowly."""
        now = self.steady()
        elapsed = min(now - self._checked_at, _MOST_ELAPSED)
        self._checked_at = now
        if not self.confirmed:  # progress since the start proves nothing: follow a step of the system clock
            self._offset = self._system()
        system = self._system() - self._offset
        venue = None if self._venue is None else self._venue - self._offset
        fresh = venue is not None and now - self._measured_at < _FRESH
        target = venue if fresh and venue is not None else system
        if abs(target) <= TOLERANCE:
            self._offset += max(-_SLEW * elapsed, min(_SLEW * elapsed, target))
        self._mark("system", system)
        self._mark("venue", venue if venue is not None and fresh else 0.0)
        return self._status(round(system), None if venue is None else round(venue))

    def _mark(self, source: str, difference: float) -> None:
        if abs(difference) > TOLERANCE:
            self._wrong.add(source)
        elif abs(difference) <= _HEALED:
            self._wrong.discard(source)

    def _status(self, system: int, venue: int | None) -> ClockStatus:
        faults = []
        if "system" in self._wrong:
            faults.append(f"the system clock is {describe_offset(system)} the agent's time")
        if "venue" in self._wrong and venue is not None:
            faults.append(f"the venue's clock is {describe_offset(venue)} the agent's time")
        trouble: Trouble = ""
        if not self.confirmed:
            trouble, faults = "unconfirmed", ["the venue's time is not known: the system clock is used"]
        elif len(faults) == 2:
            trouble = "all"
        elif faults:
            trouble = "system" if "system" in self._wrong else "venue"
        return ClockStatus(trouble, "; ".join(faults), system, venue, self.steps)

    def _system(self) -> float:
        """Return the system clock's offset. Repeat if too much time passed between reading both clocks."""
        for _ in range(3):
            before = self.steady()
            wall = self._wall.now()
            after = self.steady()
            if after - before <= _PREEMPTED:
                break
        return wall - (before + after) / 2


def describe_offset(ms: int) -> str:
    """Format a difference as `… ahead of` or `… behind`: from an hour on in minutes, else in seconds."""
    unit = next(unit for limit, unit in ((HOUR_MS, MINUTE_MS), (0, 1_000)) if abs(ms) >= limit)
    return f"{format_duration(round(abs(ms) / unit) * unit)} {'ahead of' if ms > 0 else 'behind'}"
