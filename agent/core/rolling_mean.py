"""Rolling means that do not drift, in O(1) per value."""

from __future__ import annotations

from typing import Any, Final

from librt.vecs import vec

_ROUNDING: Final = 1e-12
"""Relative difference up to which averages are equal: decimal prices are not exact in binary."""


def _replaced(total: float, old: float, new: float) -> tuple[float, float]:
    """Return the sum in which `new` replaces `old`, and its rounding error."""
    change = new - old
    part = change - new
    error = (new - (change - part)) - (old + part)
    after = total + change
    part = after - total
    return after, error + (total - (after - part)) + (change - part)


class RollingMean:
    """Mean of the last `length` values, in O(1) per value; missing values count as zeros.

    The rounding error of each step is computed and carried along (TwoSum; Knuth, The Art of Computer
    Programming, vol. 2, 4.2.2), so the mean depends only on the values in the window and does not drift.
    """

    __slots__ = ("_at", "_error", "_length", "_sum", "_values")

    def __init__(self, length: int) -> None:
        self._length: int = length
        self._values: vec[float] = vec[float]([0.0] * length)
        self._at: int = 0  # of the oldest value
        self._sum: float = 0.0
        self._error: float = 0.0

    def push(self, value: float) -> float:
        """Add a value and return the mean of the last `length` values."""
        values, at = self._values, self._at
        old = values[at]
        values[at] = value
        self._at = at + 1 if at + 1 < self._length else 0
        self._sum, error = _replaced(self._sum, old, value)
        self._error += error
        return (self._sum + self._error) / self._length

    def copy(self) -> RollingMean:
        """Return another mean of the same values."""
        other = RollingMean(0)
        other._length, other._values, other._at = self._length, self._values[:], self._at
        other._sum, other._error = self._sum, self._error
        return other


class MeanCross:
    """Which of two rolling means of the closes is higher. It is not defined before the slow one is full."""

    __slots__ = ("_bars", "_fast", "_slow", "_slow_length", "next_start")

    def __init__(self, fast: int, slow: int) -> None:
        self._fast = RollingMean(fast)
        self._slow = RollingMean(slow)
        self._slow_length: int = slow
        self._bars: int = 0
        self.next_start: int = 0
        """End of the last bar (UTC ms), at which the next one starts if none is missing."""

    def push(self, end: int, close: float) -> int:
        """Add a closed bar; return 1 if the fast mean is above the slow one, -1 if not, 0 before it is known.

        Means are equal up to a rounding error.
        """
        self.next_start = end
        fast = self._fast.push(close)
        slow = self._slow.push(close)
        self._bars += 1
        if self._bars < self._slow_length:
            return 0
        return 1 if fast - slow > _ROUNDING * slow else -1

    def count_before(self, closes: Any, *, above: bool, below: bool) -> int:
        """Return at how many of the next closes, from the first on, `push` would return neither 1 if `above`
        nor -1 if `below`. Nothing is added. `closes` is an array of floats.
        """
        values = vec[float](closes)
        fast, slow = self._fast.copy(), self._slow.copy()
        undefined = self._slow_length - 1 - self._bars
        for i in range(len(values)):
            high = fast.push(values[i])
            low = slow.push(values[i])
            if i >= undefined and (above if high - low > _ROUNDING * low else below):
                return i
        return len(values)

    def extend(self, end: int, closes: Any) -> None:
        """Add closed bars, the last of which ends at `end`. `closes` is an array of floats."""
        for close in vec[float](closes):
            self.push(end, close)
