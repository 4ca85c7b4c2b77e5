"""What was read of one symbol, as one vector that forgets.

With headlines v_1 … v_n at times t_1 … t_n and d(t) = 2 ** (-t / half_life):

    mass(t) = sum d(t - t_i)                how much has been read lately, in headlines; it fades to 0
    mean    = sum d(t - t_i) v_i / mass(t)  what it said; decay alone doesn't change it, only how much it counts for

Time comes from events alone and doesn't run backwards. All is in double precision, element by element: the same on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

NOTHING: Final[Vector] = np.zeros(0)


class DecayedEmbedding:
    """The decayed mean of the headlines on one symbol: O(dimensions) a headline, O(1) a look."""

    __slots__ = ("_at", "_half_life", "_mass", "_sum", "count", "mean")

    def __init__(self, half_life: int) -> None:
        self.count = 0
        """Headlines heard so far."""
        self.mean: Vector = NOTHING
        """float64 [dimensions]; empty before the first headline. A new array after each: it may be kept."""
        self._half_life = float(half_life)  # ms
        self._sum: Vector = NOTHING
        self._mass = 0.0
        self._at = 0

    def update(self, vector: Vector, now: int) -> None:
        """One more headline, at `now` (UTC ms)."""
        if self.count:
            decay = 2.0 ** ((self._at - now) / self._half_life)
            self._sum *= decay
            self._sum += vector
            self._mass = self._mass * decay + 1.0
        else:
            self._sum = vector.astype(np.float64)
            self._mass = 1.0
        self.count += 1
        self._at = now
        self.mean = self._sum / self._mass

    def weight(self, now: int) -> float:
        """Headlines that still count at `now`; 0 before the first."""
        return self._mass * 2.0 ** ((self._at - now) / self._half_life) if self.count else 0.0
