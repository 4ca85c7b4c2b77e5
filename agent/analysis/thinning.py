"""Reduce a curve of any length to a limited number of points, in constant memory and with all extremes."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class _Bucket(NamedTuple):
    """The lowest and the highest of consecutive samples, each with its time."""

    low_ts: int
    low: float
    high_ts: int
    high: float

    def join(self, later: _Bucket) -> _Bucket:
        low = (later.low_ts, later.low) if later.low < self.low else (self.low_ts, self.low)
        high = (later.high_ts, later.high) if later.high > self.high else (self.high_ts, self.high)
        return _Bucket(*low, *high)


def thinned(ts: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """Return about 4,000 points of a curve for a chart: times in UTC ms and values."""
    curve = ThinnedCurve()
    curve.extend(ts, values)
    return curve.points()


class ThinnedCurve:
    """A curve reduced to about `limit` points that include every peak and trough.

    Samples go into buckets of equal size that keep their minimum and maximum; when all buckets are full,
    neighbours are merged. Adding a sample takes O(1) amortised.
    """

    def __init__(self, limit: int = 4_000) -> None:
        self._capacity = max(2, limit // 4 * 2)  # an even number of buckets, two points each
        self._width = 1  # samples per bucket
        self._buckets: list[_Bucket] = []
        self._filled = 0  # samples in the last bucket
        self._last: tuple[int, float] | None = None

    def extend(self, ts: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Add samples in time order: `ts` in UTC ms and `values`, both of shape (n,)."""
        begin = 0
        while begin < len(ts):
            begin = self._add_some(ts[begin:], values[begin:]) + begin
        if len(ts):
            self._last = int(ts[-1]), float(values[-1])

    def add(self, ts: int, value: float) -> None:
        """Add one sample, as `extend` does."""
        if self._filled == self._width or not self._buckets:
            self._make_room()
        sample = _Bucket(ts, value, ts, value)
        if self._filled:
            open_bucket = self._buckets[-1]
            if value < open_bucket.low or value > open_bucket.high:
                self._buckets[-1] = open_bucket.join(sample)
        else:
            self._buckets.append(sample)
        self._filled += 1
        self._last = ts, value

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = type(self)()
        vars(twin).update(vars(self))
        twin._buckets = self._buckets.copy()
        return twin

    def _add_some(self, ts: NDArray[np.int64], values: NDArray[np.float64]) -> int:
        """Fill the open bucket, or as many new ones as fit; return the number of samples used."""
        if self._filled == self._width or not self._buckets:
            self._make_room()
        if self._filled or len(ts) < self._width:
            count, size = 1, min(len(ts), self._width - self._filled)
        else:
            count, size = min(len(ts) // self._width, self._capacity - len(self._buckets)), self._width
        rows = np.arange(count) * size
        low = rows + values[: count * size].reshape(count, size).argmin(axis=1)
        high = rows + values[: count * size].reshape(count, size).argmax(axis=1)
        fresh = map(_Bucket, ts[low].tolist(), values[low].tolist(), ts[high].tolist(), values[high].tolist())
        if self._filled:
            self._buckets[-1] = self._buckets[-1].join(next(fresh))
            self._filled += size
        else:
            self._buckets.extend(fresh)
            self._filled = size
        return count * size

    def points(self) -> tuple[list[int], list[float]]:
        """Return times (UTC ms, ascending) and values, always including the last sample."""
        points: dict[int, float] = {}
        for bucket in self._buckets:
            points |= dict(sorted(((bucket.low_ts, bucket.low), (bucket.high_ts, bucket.high))))
        if self._last is not None:
            points |= dict((self._last,))
        return list(points), list(points.values())

    def _make_room(self) -> None:
        self._filled = 0
        if len(self._buckets) == self._capacity:
            self._buckets = [
                first.join(second)
                for first, second in zip(self._buckets[::2], self._buckets[1::2], strict=True)
            ]
            self._width *= 2
