"""Calendar months (UTC) of bar times. What closes at midnight of the first belongs to the month that ended then."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agent.core.events import DAY_MS


def months_of(ts: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Months of UTC ms, shape (n,) -> (n,)."""
    return (ts - 1).astype("datetime64[ms]").astype("datetime64[M]")


def month_of(ts: int) -> str:
    """UTC ms -> "2024-03"."""
    return _month_of_day((ts - 1) // DAY_MS)


@lru_cache(maxsize=1_024)
def _month_of_day(day: int) -> str:
    return str(np.datetime64(day, "D").astype("datetime64[M]"))
