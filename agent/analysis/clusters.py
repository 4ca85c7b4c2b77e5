"""The bootstrap over whole days, for figures that are made of sums over headlines or signals.

Headlines come in bursts and their aftermaths overlap, so that they are far from independent: one day of one story is closer to one
observation than to a hundred. Drawing days with replacement, each with all that happened on it, keeps that (the cluster
bootstrap: Cameron, Gelbach and Miller, "Bootstrap-based improvements for inference with clustered errors", 2008). Days are
taken to be independent of each other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Floats, Ints, day_of

DRAWS: Final = 1_000
LEVEL: Final = 0.95
"""Coverage of every band and interval that is made of them."""

FEW_DAYS: Final = 10
"""Bands from fewer are far too narrow (from one they have no width at all), so nothing is concluded from them or drawn."""

_SEED: Final = 20_240_229
"""Reports of one run are equal to the last digit."""


class DayBootstrap:
    """Draws of the days on which observations fell; `ts` (UTC ms, shape (n,)) are their times."""

    def __init__(self, ts: Ints, draws: int = DRAWS) -> None:
        days, self._row = np.unique(day_of(ts), return_inverse=True)
        self.days = len(days)
        rng = np.random.default_rng(_SEED)
        self._weights: Floats = rng.multinomial(
            self.days, np.full(self.days, 1 / max(self.days, 1)), draws
        ).astype(float)

    def totals(self, values: Floats) -> Floats:
        """Sums of `values`, shape (n,) or (n, k), over the observations of each draw -> (draws,) or (draws, k)."""
        sums = np.zeros((self.days, *values.shape[1:]))
        np.add.at(sums, self._row, values)
        return self.of_day_sums(sums)

    def of_day_sums(self, sums: Floats) -> Floats:
        """The same from sums by day, shape (days, …), in the order of the days."""
        return self._weights @ sums

    def row_of(self, which: NDArray[np.int64] | slice) -> Ints:
        """The row of the day of each of these observations."""
        rows: Ints = self._row[which]
        return rows


def band(draws: Floats) -> tuple[Floats, Floats]:
    """Lower and upper percentile bounds at `LEVEL` over the first axis; draws that are NaN don't count."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail], axis=0)
    return low, high
