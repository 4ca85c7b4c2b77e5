"""Rolling means that do not drift, in O(1) per value."""

from __future__ import annotations

from typing import Final, final

from librt.vecs import vec
from mypy_extensions import i64

from agent.core.bar_block import BarSpan

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


@final
class RollingMean:
    """Mean of the last `length` values, in O(1) per value; missing values count as zeros.

    The rounding error of each step is computed and carried along (TwoSum; Knuth, The Art of Computer
    Programming, vol. 2, 4.2.2), so the mean depends only on the values in the window and does not drift.
    """

    __slots__ = (
        "_at",
        "_before",
        "_error",
        "_error_before",
        "_length",
        "_sum",
        "_sum_before",
        "_values",
    )

    def __init__(self, length: int) -> None:
        self._length: i64 = length
        self._values: vec[float] = vec[float]([0.0] * length)
        self._at: i64 = 0  # of the oldest value
        self._sum: float = 0.0
        self._error: float = 0.0
        self._before: float = 0.0  # the value that the last one replaced, and the sum and error with it
        self._sum_before: float = 0.0
        self._error_before: float = 0.0

    def push(self, value: float) -> float:
        """Add a value and return the mean of the last `length` values."""
        values, at = self._values, self._at
        old = values[at]
        values[at] = value
        at += 1
        if at == self._length:
            at = 0
        self._at = at
        self._before, self._sum_before, self._error_before = old, self._sum, self._error
        self._sum, error = _replaced(self._sum, old, value)
        self._error += error
        return (self._sum + self._error) / float(self._length)

    def undo(self) -> None:
        """Take the last `push` back. It can't be called twice in a row."""
        at = self._at
        if at == 0:
            at = self._length
        self._at = at - 1
        self._values[at - 1] = self._before
        self._sum, self._error = self._sum_before, self._error_before

    def take(self, other: RollingMean) -> None:
        """Take over the values of another mean, which stays as it is."""
        self._length, self._at = other._length, other._at
        self._values = other._values[:]
        self._sum, self._error = other._sum, other._error


@final
class MeanCross:
    """Which of two rolling means of the closes is higher. It is not defined before the slow one is full."""

    __slots__ = (
        "_ahead",
        "_bars",
        "_fast",
        "_fast_ahead",
        "_seen",
        "_slow",
        "_slow_ahead",
        "_slow_length",
        "next_start",
    )

    def __init__(self, fast: int, slow: int) -> None:
        self._fast = RollingMean(fast)
        self._slow = RollingMean(slow)
        self._slow_length: i64 = slow
        self._bars: i64 = 0
        self.next_start: int = 0
        """End of the last bar (UTC ms), at which the next one starts if none is missing."""
        self._fast_ahead = RollingMean(fast)
        self._slow_ahead = RollingMean(slow)
        self._seen: i64 = -1  # bars before those of `_ahead`, which the two means ahead know
        self._ahead: vec[float] = vec[float]()

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

    def count_before(self, bars: BarSpan, *, above: bool, below: bool) -> int:
        """Return at how many of the next bars, from the first on, `push` would return neither 1 if `above`
        nor -1 if `below`. Nothing is added.
        """
        closes = bars.packed_closes()
        fast, slow = self._fast_ahead, self._slow_ahead
        fast.take(self._fast)
        slow.take(self._slow)
        undefined = self._slow_length - 1 - self._bars
        quiet: i64 = len(closes)
        for i in range(quiet):
            high = fast.push(closes[i])
            low = slow.push(closes[i])
            if i >= undefined and (above if high - low > _ROUNDING * low else below):
                fast.undo()
                slow.undo()
                quiet = i
                break
        self._seen, self._ahead = self._bars, closes[:quiet]
        return quiet

    def extend(self, bars: BarSpan) -> None:
        """Add closed bars."""
        closes = bars.packed_closes()
        if self._seen == self._bars and _are_equal(self._ahead, closes):
            self._fast, self._fast_ahead = self._fast_ahead, self._fast
            self._slow, self._slow_ahead = self._slow_ahead, self._slow
            self._bars += len(closes)
            self.next_start = bars.last_end
            return
        for close in closes:
            self.push(bars.last_end, close)


def _are_equal(one: vec[float], other: vec[float]) -> bool:
    return len(one) == len(other) and all(one[i] == other[i] for i in range(len(one)))
