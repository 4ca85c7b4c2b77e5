"""Bars of calendar months, and of days or weeks in a zone with daylight saving time.

Each bar closes when the next one opens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agent.core.durations import MONTHS, later, month_number, month_start
from agent.core.events import DAY_MS, HOUR_MS
from agent.data.columns import as_arrow, as_numpy

Times = NDArray[np.int64]

# a month's first session begins this early in it, and its last one this close to its end
_FIRST_DAYS: Final = 10 * DAY_MS
_SHORTEST_MONTH: Final = 27 * DAY_MS
# least time between two clock changes: Morocco changes clocks around Ramadan, other zones twice a year
_CHANGES_APART: Final = 28 * DAY_MS
_MONTHS_OF_BARS: Final = {months: interval for interval, months in MONTHS.items()}


@dataclass(frozen=True, slots=True)
class Calendar:
    """The calendar of a file's bars.

    `interval` (ms) is a key of `MONTHS`, a day or a week; `zone` is that of the file's local times, if known.
    `phases` are the times of day (ms after 00:00 UTC) at which bars open. If `dated_at_end`, the file dates a
    bar by the last day of its months.
    """

    interval: int
    zone: str | None
    phases: frozenset[int]
    dated_at_end: bool = False

    def opens(self, times: Times) -> Times:
        """Return the open times (UTC ms) for the times in the file; 0 (a missing time) stays 0."""
        if not self.dated_at_end:
            return times
        local = _to_local(times, self.zone)
        first = _each(month_number, local) - (MONTHS[self.interval] - 1)
        return np.where(times > 0, _to_utc(_each(month_start, first) + local % DAY_MS, self.zone), 0)

    def steps(self, start: Times) -> Times:
        """Return each bar's distance (ms) from the one before, in whole intervals if the calendar fits."""
        steps = np.diff(start, prepend=later(int(start[0]), self.interval, -1))
        if self.interval in MONTHS:
            months = np.diff(_each(month_number, _to_local(start, self.zone)), prepend=0)
            size = MONTHS[self.interval]
            months[0] = size
            even = (steps > 0) & (months > 0) & (months % size == 0)
            return np.where(even, months // size * self.interval, steps)
        steps[0] = self.interval
        whole = (steps + self.interval // 2) // self.interval * self.interval
        return np.where((whole > 0) & (np.abs(steps - whole) == HOUR_MS), whole, steps)

    def closes(self, start: Times, step: Times) -> Times:
        """Return the close times (UTC ms): the next open time; before a gap and at the end, by the calendar.

        `start` are the open times, `step` the distances by `steps`.
        If the zone is unknown and its clocks may change in the bar, the later of the two possible times is
        returned.
        """
        local = _to_local(start, self.zone)
        ends = _to_utc(_each(lambda moment: later(moment, self.interval), local), self.zone)
        if self.zone is None:
            phase = start % DAY_MS
            ends += HOUR_MS * np.isin((phase + HOUR_MS) % DAY_MS, sorted(self.phases))
        following = start[1:]
        ends[:-1] = np.where(step[1:] == self.interval, following, np.minimum(ends[:-1], following))
        return ends


def find_calendar(times: Times, zone: str | None, *, around_the_clock: bool) -> Calendar | None:
    """Return the calendar of a file's rising `times` (UTC ms); None for bars of one length.

    `zone` is that of naive times.
    """
    if len(times) < 2:
        return None
    if zone is not None and len(np.unique(_to_local(times, zone) % DAY_MS)) > 1:
        zone = None  # the times state an offset of another zone
    return _months(times, zone) or _days(times, zone, around_the_clock=around_the_clock)


def _months(times: Times, zone: str | None) -> Calendar | None:
    steps, local = np.diff(times), _to_local(times, zone)
    if steps.min() < _SHORTEST_MONTH:
        return None
    numbers = _each(month_number, local)
    since, left = local - _each(month_start, numbers), _each(month_start, numbers + 1) - local
    # with equal steps, only bars at the very beginning of months aren't bars of 28 or 30 days
    equal = bool((steps == steps[0]).all())
    dated_at_end = not equal and bool((left <= _FIRST_DAYS).all())
    if not dated_at_end and (since > (14 * HOUR_MS if equal else _FIRST_DAYS)).any():
        return None
    sizes, counts = np.unique(np.diff(numbers), return_counts=True)
    interval = _MONTHS_OF_BARS.get(int(sizes[counts.argmax()]))
    return None if interval is None else Calendar(interval, zone, _phases(times), dated_at_end)


def _days(times: Times, zone: str | None, *, around_the_clock: bool) -> Calendar | None:
    """Return the calendar of days or weeks of which some are an hour shorter or longer.

    In a market that closes, only a short one is evidence: a long one may include a time when it is closed.
    """
    steps = np.diff(times)
    interval = 7 * DAY_MS if steps.min() >= 7 * DAY_MS - HOUR_MS else DAY_MS
    whole = (steps + interval // 2) // interval * interval
    odd = steps - whole
    changes = np.flatnonzero(odd)
    if not (whole == interval).any() or not len(changes) or (np.abs(odd[changes]) != HOUR_MS).any():
        return None
    if not around_the_clock and not (steps == interval - HOUR_MS).any():
        return None
    if (odd[changes][1:] == odd[changes][:-1]).any() or (np.diff(times[changes]) < _CHANGES_APART).any():
        return None
    return Calendar(interval, zone, _phases(times))


def _phases(times: Times) -> frozenset[int]:
    return frozenset(np.unique(times % DAY_MS).tolist())


def _to_local(moments: Times, zone: str | None) -> Times:
    """Return the local times of `zone` (UTC if None) as if they were UTC ms."""
    if zone is None:
        return moments
    local = pc.local_timestamp(as_arrow(moments, pa.timestamp("ms", tz=zone)))
    return as_numpy(local.cast(pa.int64()))


def _to_utc(local: Times, zone: str | None) -> Times:
    """Return the UTC ms of local times, as a copy; the later one if a local time occurs twice."""
    if zone is None:
        return local.copy()
    stamps = as_arrow(local, pa.timestamp("ms"))
    moments = pc.assume_timezone(stamps, zone, ambiguous="latest", nonexistent="latest")
    return as_numpy(moments.cast(pa.int64())).copy()


def _each(function: Callable[[int], int], values: Times) -> Times:
    return np.array([function(value) for value in values.tolist()], np.int64)
