"""Rolling statistics for strategies that count on closed bars."""

from __future__ import annotations

from collections import deque


class RollingMean:
    """Mean of the last `length` values, O(1) a value; zeros stand in for values that have not come yet.

    The sum doesn't drift: the rounding error of each step is itself computed and carried along (TwoSum; Knuth, The Art of
    Computer Programming, vol. 2, 4.2.2). So the mean depends on the window alone, not on what went through it before.
    """

    __slots__ = ("_error", "_length", "_sum", "_values")

    def __init__(self, length: int) -> None:
        self._length = length
        self._values = deque([0.0] * length, maxlen=length)
        self._sum = 0.0
        self._error = 0.0

    def push(self, value: float) -> float:
        """The mean of the window that ends with `value`."""
        values, before = self._values, self._sum
        old = values[0]
        values.append(value)
        change = value - old
        part = change - value
        error = (value - (change - part)) - (old + part)
        after = self._sum = before + change
        part = after - before
        self._error += error + (before - (after - part)) + (change - part)
        return (after + self._error) / self._length
