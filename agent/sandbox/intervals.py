"""Bybit's kline intervals and the moments at which their bars begin."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.events import DAY_MS, MINUTE_MS

Times = NDArray[np.int64]

MINUTES: Final = ("1", "3", "5", "15", "30", "60", "120", "240", "360", "720")
INTERVALS: Final = (*MINUTES, "D", "W", "M")

_WEEK_MS: Final = 7 * DAY_MS
_MONDAY_MS: Final = 4 * DAY_MS  # 1970-01-05


def duration(interval: str) -> int:
    """Milliseconds; of a month the shortest, since only what is finer than it matters."""
    return (
        int(interval) * MINUTE_MS
        if interval in MINUTES
        else {"D": DAY_MS, "W": _WEEK_MS, "M": 28 * DAY_MS}[interval]
    )


def bar_starts(interval: str, times: Times) -> Times:
    """For each moment (UTC ms) the start of the bar that holds it; weeks begin on Monday, months on the first."""
    if interval == "M":
        return (
            times.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        )
    size = duration(interval)
    offset = _MONDAY_MS if interval == "W" else 0
    return (times - offset) // size * size + offset


def bar_end(interval: str, start: int) -> int:
    """The start of the next bar."""
    if interval != "M":
        return start + duration(interval)
    moment = datetime.fromtimestamp(start / 1000, UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)
