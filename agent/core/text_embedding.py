"""Exponentially decayed mean of the embeddings of a symbol's headlines.

With headlines v_1 … v_n at times t_1 … t_n and d(t) = 2 ** (-t / half_life):

    weight(t) = sum d(t - t_i)                  number of recent headlines; it decays to 0
    mean      = sum d(t - t_i) v_i / weight(t)  independent of t: decay alone does not change it

All arithmetic is elementwise in double precision, so results are the same on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

EMPTY: Final[Vector] = np.zeros(0)


class DecayedEmbedding:
    """Decayed mean of the headlines on one symbol: `update` is O(dimensions), `weight` O(1)."""

    __slots__ = ("_at", "_half_life", "_sum", "_weight", "count", "mean")

    def __init__(self, half_life: int) -> None:
        self.count = 0
        """Number of headlines so far."""
        self.mean: Vector = EMPTY
        """float64 [dimensions]; empty before the first headline. Each update makes a new array."""
        self._half_life = float(half_life)  # ms
        self._sum: Vector = EMPTY
        self._weight = 0.0  # at `_at`
        self._at = 0

    def update(self, vector: Vector, now: int) -> None:
        """Add a headline's embedding at `now` (UTC ms, not before the last one)."""
        if self.count:
            decay = 2.0 ** ((self._at - now) / self._half_life)
            self._sum *= decay
            self._sum += vector
            self._weight = self._weight * decay + 1.0
        else:
            self._sum = vector.astype(np.float64)
            self._weight = 1.0
        self.count += 1
        self._at = now
        self.mean = self._sum / self._weight

    def weight(self, now: int) -> float:
        """Return the decayed number of headlines at `now` (UTC ms)."""
        return self._weight * 2.0 ** ((self._at - now) / self._half_life) if self.count else 0.0
