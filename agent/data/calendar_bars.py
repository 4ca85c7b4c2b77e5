"""Bars of calendar months, and of days or weeks in a zone that changes its clocks: each closes where the next one begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agent.core.durations import MONTHS, later, month_number, month_start
from agent.core.events import DAY_MS, HOUR_MS
from agent.data.columns import as_arrow, as_numpy

if TYPE_CHECKING:
    from agent.data.bar_checks import Bars

Times = NDArray[np.int64]

# a month's first session begins within them, its last one within as many before its end
_FIRST_DAYS: Final = 10 * DAY_MS
_SHORTEST_MONTH: Final = 27 * DAY_MS
# clocks are changed less often: in Morocco around Ramadan, elsewhere twice a year
_CHANGES_APART: Final = 28 * DAY_MS
_MONTHS_OF_BARS: Final = {months: interval for interval, months in MONTHS.items()}


@dataclass(frozen=True, slots=True)
class Calendar:
    """How the bars of a file follow the calendar.

    `interval` (ms) is a key of `MONTHS`, a day or a week, `zone` that of the file's local times, if it is known. `phases` are the times
    of day (ms after 00:00 UTC) at which bars open. With `dated_at_end` the file has the last day of a bar's months as its time.
    """

    interval: int
    zone: str | None
    phases: frozenset[int]
    dated_at_end: bool = False

    def opens(self, times: Times) -> Times:
        """When the bars open (UTC ms), from the times in the file; 0 (a missing time) stays."""
        if not self.dated_at_end:
            return times
        local = _to_local(times, self.zone)
        first = _each(month_number, local) - (MONTHS[self.interval] - 1)
        return np.where(times > 0, _to_utc(_each(month_start, first) + local % DAY_MS, self.zone), 0)

    def steps(self, start: Times) -> Times:
        """The distance (ms) of each bar from the one before it, in whole intervals if the calendar has so many between them."""
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

    def closes(self, bars: Bars) -> Times:
        """When each bar closes (UTC ms): where the next one opens, before a gap and at the end by the calendar.

        If the zone isn't known and its clocks may change meanwhile, that is the later of the two possible moments.
        """
        start = bars.start
        local = _to_local(start, self.zone)
        ends = _to_utc(_each(lambda moment: later(moment, self.interval), local), self.zone)
        if self.zone is None:
            phase = start % DAY_MS
            ends += HOUR_MS * np.isin((phase + HOUR_MS) % DAY_MS, sorted(self.phases))
        following = start[1:]
        ends[:-1] = np.where(bars.step[1:] == self.interval, following, np.minimum(ends[:-1], following))
        return ends


def find_calendar(times: Times, zone: str | None, *, around_the_clock: bool) -> Calendar | None:
    """The calendar that the rising `times` (UTC ms) of a file follow; None for bars of one length. `zone` is that of naive times."""
    if len(times) < 2:
        return None
    if zone is not None and len(np.unique(_to_local(times, zone) % DAY_MS)) > 1:
        zone = None  # the times state another one
    return _months(times, zone) or _days(times, zone, around_the_clock=around_the_clock)


def _months(times: Times, zone: str | None) -> Calendar | None:
    steps, local = np.diff(times), _to_local(times, zone)
    if steps.min() < _SHORTEST_MONTH:
        return None
    numbers = _each(month_number, local)
    since, left = local - _each(month_start, numbers), _each(month_start, numbers + 1) - local
    # then only a month's very beginning shows that the bars aren't of 28 or 30 days
    equal = bool((steps == steps[0]).all())
    dated_at_end = not equal and bool((left <= _FIRST_DAYS).all())
    if not dated_at_end and (since > (14 * HOUR_MS if equal else _FIRST_DAYS)).any():
        return None
    sizes, counts = np.unique(np.diff(numbers), return_counts=True)
    interval = _MONTHS_OF_BARS.get(int(sizes[counts.argmax()]))
    return None if interval is None else Calendar(interval, zone, _phases(times), dated_at_end)


def _days(times: Times, zone: str | None, *, around_the_clock: bool) -> Calendar | None:
    """Days or weeks some of which are an hour shorter or longer.

    If the market rests, only a short one shows that: a long one may be a rest.
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
    """Local times of `zone` (UTC without one), as if they were UTC ms."""
    if zone is None:
        return moments
    local = pc.local_timestamp(as_arrow(moments, pa.timestamp("ms", tz=zone)))
    return as_numpy(local.cast(pa.int64()))


def _to_utc(local: Times, zone: str | None) -> Times:
    """The moments (UTC ms) of local times, as a copy; of two the later."""
    if zone is None:
        return local.copy()
    stamps = as_arrow(local, pa.timestamp("ms"))
    moments = pc.assume_timezone(stamps, zone, ambiguous="latest", nonexistent="latest")
    return as_numpy(moments.cast(pa.int64())).copy()


def _each(function: Callable[[int], int], values: Times) -> Times:
    return np.array([function(value) for value in values.tolist()], np.int64)
