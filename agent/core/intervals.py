"""Bar intervals as strategies write them (`1m`, `4h`, `1d`, `1w`, `1M`), and the periods of time that bars
cover.

Periods are aligned as Bybit aligns them, in UTC: multiples of the interval since 00:00, weeks from Monday,
months from the 1st. An interval is a number of milliseconds; that of a month is its key in
`agent.core.durations.MONTHS`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from agent.core.durations import MONTHS, format_duration, month_start, parse_duration
from agent.core.errors import ConfigError
from agent.core.events import DAY_MS

WEEK_MS: Final = 7 * DAY_MS
MONTH: Final = next(interval for interval, months in MONTHS.items() if months == 1)
"""The interval of bars of one month."""

_FIRST_MONDAY: Final = 4 * DAY_MS  # after the epoch, a Thursday
_NAMED: Final = {"1w": WEEK_MS, "1W": WEEK_MS, "1M": MONTH, "1mo": MONTH}
_DURATION: Final = re.compile(r"\d+\s*[smhd]")
_HINT: Final = "write a divisor of a day such as 1m, 15m, 1h, 4h, 1d, or 1w, 1M"


def parse_interval(text: str) -> int:
    """Return the interval in milliseconds. Raises ConfigError unless periods of it fill a day, or it is a
    week or a month.
    """
    named = _NAMED.get(text) if isinstance(text, str) else None
    if named is not None:
        return named
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ConfigError(f"{text!r} is not an interval", hint=_HINT)
    interval = parse_duration(text)
    if interval <= 0 or DAY_MS % interval:
        raise ConfigError(f"bars of {text} don't fill a day evenly", hint=_HINT)
    return interval


def format_interval(interval: int) -> str:
    """Return the text of an interval: 60000 -> `1m`."""
    return {WEEK_MS: "1w", MONTH: "1M"}.get(interval) or format_duration(interval)


def is_foldable(base: int, interval: int) -> bool:
    """Return whether bars of `interval` consist of whole bars of `base`."""
    if interval == base:
        return True
    return base < interval and (interval % base == 0 if interval < WEEK_MS else DAY_MS % base == 0)


def period_start(moment: int, interval: int) -> int:
    """Return the start of the period that contains `moment`; both UTC ms."""
    if interval == MONTH:
        return month_start(_month_of(moment))
    if interval == WEEK_MS:
        return moment - (moment - _FIRST_MONDAY) % WEEK_MS
    return moment - moment % interval


def period_end(start: int, interval: int) -> int:
    """Return the end of the period that starts at `start`; both UTC ms."""
    return month_start(_month_of(start) + 1) if interval == MONTH else start + interval


def periods_before(moment: int, interval: int, count: int) -> int:
    """Return the start of the first of the last `count` periods that end at `moment` or earlier; UTC ms."""
    start = period_start(moment, interval)
    return month_start(_month_of(start) - count) if interval == MONTH else start - count * interval


def _month_of(moment: int) -> int:
    date = datetime.fromtimestamp(moment // 1_000, UTC)
    return date.year * 12 + date.month - 1
