"""The live rim's clock: steady progress from an anchor that only two agreeing sources can move.

Three sources provide the time: the system clock, the venue's clock, and steady progress since the anchor. The system clock can be
stepped by hours, the venue can send a wrong stamp, and a steady clock drifts or stands still while the machine is suspended. The
majority wins: one source that disagrees with the other two changes nothing but the status.
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
"""ms by which two sources may differ and still agree."""

SLOWEST: Final = 5_000
"""ms of the longest round trip by which the venue's time is measured."""

_HEALED: Final = 1_000  # ms; a source that disagreed has to come this close before it agrees again
_SLEW: Final = 0.0005  # of the time that passes: how fast a small difference is taken back
_FORGOTTEN: Final = 900_000  # ms without the venue, after which steady progress doesn't count as a source
_FRESH: Final = 300_000  # ms for which a measurement of the venue's time stands
_FRAMES: Final = 5  # messages of the stream, of which the median counts
_LATE: Final = 60_000  # ms by which messages of a new connection may be late
_PREEMPTED: Final = 20.0  # ms between two readings, beyond which they are repeated
_MOST_ELAPSED: Final = 60_000.0  # ms that count as elapsed between two checks, at most

Trouble = Literal["", "unconfirmed", "system", "venue", "all", "run"]
"""What is wrong: nothing, the venue's time is not known, the system clock, the venue's clock, no two of the three agree, or the run's
time is ahead of all."""


class ClockStatus(msgspec.Struct, frozen=True):
    """What the agent's time rests on. Differences are in ms and positive if the source is ahead of the agent's time."""

    trouble: Trouble = ""
    detail: str = ""
    system_ms: int = 0  # the system clock
    venue_ms: int | None = None  # the venue's clock at its last measurement; None without one
    steps: int = 0  # how often the agent's time was moved at once


class DisciplinedClock:
    """`wall` is the system clock; `steady` counts seconds and can't be set.

    No other I/O: the caller passes each measurement of the venue's time to `measured` and each stamp of the stream to `heard`, and
    calls `check` about once a second.
    """

    def __init__(self, wall: Clock, steady: Callable[[], float] = steady_time) -> None:
        self.confirmed = False
        """Whether the venue's time is known at all: until then this is the system clock's time."""
        self.steps = 0
        self._anchored = False  # by a measurement, so that this time is a source beside the system clock
        self._wall = wall
        self._source = steady
        self._error = 0.0  # ms, of the measurement that the anchor rests on
        self._offset = self._system()  # UTC ms at zero of the steady clock
        self._venue: float | None = None  # the same offset by the last measurement of the venue's clock
        self._measured_at = 0.0  # steady ms, of that measurement
        self._heard_at = self.steady()  # steady ms, when the venue's time was last known
        self._frames: deque[float] = deque(maxlen=_FRAMES)
        self._checked_at = self.steady()
        self._wrong: set[str] = set()

    def steady(self) -> float:
        """Milliseconds of steady progress."""
        return self._source() * 1000

    def now(self) -> int:
        """UTC milliseconds."""
        return int(self._offset + self.steady())

    def latest(self, tolerance: int) -> int | None:
        """UTC ms that no event may be later than; None while the time is not confirmed."""
        return self.now() + tolerance if self.confirmed else None

    # -- the venue's time ----------------------------------------------------------------------------------------------

    def measured(self, theirs: int, sent: float) -> bool:
        """The venue returned `theirs` (UTC ms) for a request sent at `sent` (steady ms). False if it took too long."""
        arrived = self.steady()
        if arrived - sent > SLOWEST:
            return False
        self._measured_at = arrived
        self._judge(theirs - (sent + arrived) / 2, (arrived - sent) / 2)
        return True

    def heard(self, stamp: int) -> None:
        """A message of the stream carries `stamp` (UTC ms). It may be late, so a past stamp proves nothing."""
        self._frames.append(stamp - self.steady())
        if len(self._frames) < _FRAMES:
            return
        median = sorted(self._frames)[_FRAMES // 2]
        ahead = median - self._offset
        if ahead > TOLERANCE or (not self.confirmed and ahead < -_LATE):
            self._frames.clear()
            self._judge(median, 0.0)
        elif not self.confirmed:
            self.confirmed = True  # as far as possibly late messages can show
        elif ahead >= -TOLERANCE:
            self._heard_at = self.steady()

    def _judge(self, venue: float, error: float) -> None:
        """The venue's offset is known to within `error`: keep ours, or follow if it stands alone against two others."""
        now = self.steady()
        alone = not self._anchored or now - self._heard_at > _FORGOTTEN
        self._heard_at = now
        self._venue = venue
        difference = abs(venue - self._offset)
        if difference <= (error if alone else TOLERANCE + error):
            self.confirmed = self._anchored = True
            if error < self._error and difference <= self._error:  # a better measurement of the same
                self._offset, self._error = venue, error
        elif alone or abs(venue - self._system()) <= TOLERANCE + error:
            self.confirmed = self._anchored = True
            self._offset, self._error = venue, error
            self._frames.clear()
            self.steps += 1

    # -- comparison ----------------------------------------------------------------------------------------------------

    def check(self) -> ClockStatus:
        """Compare the sources, and take small differences back slowly."""
        now = self.steady()
        elapsed = min(now - self._checked_at, _MOST_ELAPSED)
        self._checked_at = now
        system = self._system() - self._offset
        venue = None if self._venue is None else self._venue - self._offset
        fresh = venue is not None and now - self._measured_at < _FRESH
        target = venue if fresh and venue is not None else system
        if abs(target) <= TOLERANCE:
            self._offset += max(-_SLEW * elapsed, min(_SLEW * elapsed, target))
        self._note("system", system)
        self._note("venue", venue if venue is not None and fresh else 0.0)
        return self._status(round(system), None if venue is None else round(venue))

    def _note(self, source: str, difference: float) -> None:
        if abs(difference) > TOLERANCE:
            self._wrong.add(source)
        elif abs(difference) <= _HEALED:
            self._wrong.discard(source)

    def _status(self, system: int, venue: int | None) -> ClockStatus:
        words = []
        if "system" in self._wrong:
            words.append(f"the system clock is {offset_in_words(system)} the agent's time")
        if "venue" in self._wrong and venue is not None:
            words.append(f"the venue's clock is {offset_in_words(venue)} the agent's time")
        trouble: Trouble = ""
        if not self.confirmed:
            trouble, words = "unconfirmed", ["the venue's time is not known: the system clock is believed"]
        elif len(words) == 2:
            trouble = "all"
        elif words:
            trouble = "system" if "system" in self._wrong else "venue"
        return ClockStatus(trouble, "; ".join(words), system, venue, self.steps)

    def _system(self) -> float:
        """Offset of the system clock. If too much time passes between reading both clocks, they are read again."""
        for _ in range(3):
            before = self.steady()
            wall = self._wall.now()
            after = self.steady()
            if after - before <= _PREEMPTED:
                break
        return wall - (before + after) / 2


def offset_in_words(ms: int) -> str:
    """How far something is ahead (positive) or behind, as text, without needless digits."""
    unit = next(unit for limit, unit in ((HOUR_MS, MINUTE_MS), (0, 1_000)) if abs(ms) >= limit)
    return f"{format_duration(round(abs(ms) / unit) * unit)} {'ahead of' if ms > 0 else 'behind'}"
