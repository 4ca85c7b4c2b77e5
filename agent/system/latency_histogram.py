"""Latency histogram of fixed size, for a process that runs for months."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import inf
from typing import Final

BOUNDS_MS: Final = tuple(0.1 * 1.1**step for step in range(121))
"""Upper bounds of the buckets: 0.1 ms to 9.2 s in steps of 10 %, the resolution of a quantile."""


class LatencyHistogram:
    """Counts of durations in geometric buckets, in milliseconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_MS) + 1)
        self.total_ms = 0.0
        """Sum of all durations."""

    def __len__(self) -> int:
        return sum(self._counts)

    def add(self, milliseconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS_MS, milliseconds)] += 1
        self.total_ms += milliseconds

    def quantile(self, share: float) -> float:
        """Return the upper bound (ms) of the quantile `share`, in (0, 1]; 0 if nothing was counted."""
        counted = list(accumulate(self._counts))
        if not counted[-1]:
            return 0.0
        return BOUNDS_MS[min(bisect_left(counted, share * counted[-1]), len(BOUNDS_MS) - 1)]

    def cumulative(self, step: int) -> list[tuple[float, int]]:
        """Return every `step`-th bound (ms, the last infinite) with the number of durations up to it."""
        counted = list(accumulate(self._counts))
        return [(BOUNDS_MS[at], counted[at]) for at in range(0, len(BOUNDS_MS), step)] + [(inf, counted[-1])]

    def summary(self) -> dict[str, float]:
        """Return `n`, `p50_ms` and `p99_ms`."""
        return {"n": len(self), "p50_ms": self.quantile(0.5), "p99_ms": self.quantile(0.99)}
