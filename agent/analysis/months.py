"""Calendar months (UTC) of bar times. What closes at midnight of the first belongs to the month that ended then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def months_of(ts: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Months of UTC ms, shape (n,) -> (n,)."""
    return (ts - 1).astype("datetime64[ms]").astype("datetime64[M]")


def month_of(ts: int) -> str:
    """UTC ms -> "2024-03"."""
    return str(np.datetime64(ts - 1, "ms").astype("datetime64[M]"))
