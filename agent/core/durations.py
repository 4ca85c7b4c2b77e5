"""Durations, written `250ms`, `30s`, `5m`, `4h` or `1d` and stored in milliseconds; bars of whole months."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def parse_duration(value: str | int) -> int:
    """Convert a text such as `5m` to milliseconds; an int is in milliseconds already.

    Raises ValueError if `value` is neither, or negative.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError("a duration can't be negative")
        return value
    match = _PATTERN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration; write a number with its unit, e.g. 250ms, 30s, 5m, 4h, 1d"
        )
    return round(float(match[1]) * _UNITS[match[2]])


def format_duration(ms: int) -> str:
    """Return the shortest exact text: 60000 -> `1m`."""
    for unit, size in reversed(_UNITS.items()):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


Duration = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
"""Pydantic field in milliseconds, parsed from and printed as texts such as `5m`."""

_DAY_MS: Final = 86_400_000
MONTHS: Final = {
    31 * _DAY_MS: 1,
    62 * _DAY_MS: 2,
    92 * _DAY_MS: 3,
    123 * _DAY_MS: 4,
    184 * _DAY_MS: 6,
    366 * _DAY_MS: 12,
}
"""Interval (ms) of a bar of calendar months, the longest that it can be -> number of months."""


def format_bar_length(interval: int) -> str:
    """Return the length of a bar (ms): `5m`, or for calendar months `1 month`, `3 months`."""
    months = MONTHS.get(interval, 0)
    return f"{months} month{'s' * (months > 1)}" if months else format_duration(interval)


# In the easternmost time zone a month begins this long before it does in UTC
_FARTHEST_EAST_MS: Final = 14 * 3_600_000


def month_number(moment: int) -> int:
    """Return the months from the year 0 to `moment` (UTC ms), in the easternmost time zone."""
    date = datetime.fromtimestamp((moment + _FARTHEST_EAST_MS) // 1_000, UTC)
    return date.year * 12 + date.month - 1


def month_start(number: int) -> int:
    """Return the start (UTC ms) of a month, counted from the year 0."""
    return int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1_000


def later(moment: int, interval: int, periods: int = 1) -> int:
    """Add `periods` intervals (ms) to `moment` (UTC ms); intervals in `MONTHS` follow the calendar."""
    if interval not in MONTHS:
        return moment + periods * interval
    number = month_number(moment)
    return month_start(number + periods * MONTHS[interval]) + moment - month_start(number)
