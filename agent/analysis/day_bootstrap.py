"""The bootstrap over whole days, for figures that are sums over headlines or signals.

Headlines come in bursts and the returns after them overlap, so they are not independent: a day with one story
counts more like one observation than like a hundred. Days are drawn with replacement, each with all its
observations (the cluster bootstrap: Cameron, Gelbach and Miller, "Bootstrap-based improvements for inference
with clustered errors", 2008). Days are assumed to be independent of each other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Floats, Ints, day_of

DRAWS: Final = 1_000
LEVEL: Final = 0.95
"""Coverage of all bands and intervals."""

FEW_DAYS: Final = 10
"""Bands from fewer days are far too narrow, so they are neither drawn nor interpreted."""

_SEED: Final = 20_240_229
"""Fixed, so that two reports of one run are identical."""


class DayBootstrap:
    """Resamples of the days of observations; `ts` are the times of the observations (UTC ms, shape (n,))."""

    def __init__(self, ts: Ints, draws: int = DRAWS) -> None:
        days, self._row = np.unique(day_of(ts), return_inverse=True)
        self.days = len(days)
        rng = np.random.default_rng(_SEED)
        self._weights: Floats = rng.multinomial(
            self.days, np.full(self.days, 1 / max(self.days, 1)), draws
        ).astype(float)

    def totals(self, values: Floats) -> Floats:
        """Sum `values`, (n,) or (n, k), over the observations of each draw: (draws,) or (draws, k)."""
        sums = np.zeros((self.days, *values.shape[1:]))
        np.add.at(sums, self._row, values)
        return self.of_day_sums(sums)

    def of_day_sums(self, sums: Floats) -> Floats:
        """Sum over each draw from sums by day, shape (days, …), in the order of the days."""
        return self._weights @ sums

    def row_of(self, which: NDArray[np.int64] | slice) -> Ints:
        """Return the row of the day of each of these observations."""
        rows: Ints = self._row[which]
        return rows


def band(draws: Floats) -> tuple[Floats, Floats]:
    """Return the lower and upper percentile at `LEVEL` over the first axis; NaN draws are left out."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail], axis=0)
    return low, high
