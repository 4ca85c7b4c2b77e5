"""Equity samples as evenly spaced returns: what intervals and tests are computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.core.events import DAY_MS


def periodic_returns(
    ts: ArrayLike, equity: ArrayLike, initial: float, *, every: int = DAY_MS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ends (UTC ms) of periods of `every` ms that divide the UTC day, and the simple return of each, both of shape (n,).

    `ts` rises and `initial` is the equity before the first sample. A period without a sample returned nothing; the first and the
    last may be shorter, so that together the returns compound to the whole. A return from equity at or below zero is 0.
    """
    times, values = np.asarray(ts, np.int64), np.asarray(equity, np.float64)
    if not len(times):
        return np.empty(0, np.int64), np.empty(0)
    first = -(-int(times[0]) // every) * every
    ends = np.append(np.arange(first, int(times[-1]), every, dtype=np.int64), times[-1])
    levels = np.concatenate(((initial,), values[np.searchsorted(times, ends, side="right") - 1]))
    before = levels[:-1]
    return ends, np.divide(np.diff(levels), before, out=np.zeros(len(ends)), where=before > 0)
