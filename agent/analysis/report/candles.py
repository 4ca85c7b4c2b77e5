"""Bars of a run as candles of a limited number: folded into longer ones if there are more."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from agent.analysis.daily import Floats, Ints
from agent.analysis.report.report_data import Candles
from agent.core.durations import MONTHS
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

ALL: Final = 80_000
"""Candles of a report, over all symbols. What the page has no room for is folded again."""

FEWEST: Final = 1_000
"""Candles of a symbol that there is always room for."""

LADDER: Final = (
    *(minutes * MINUTE_MS for minutes in (1, 2, 3, 5, 10, 15, 30)),
    *(hours * HOUR_MS for hours in (1, 2, 4, 6, 8, 12)),
    *(days * DAY_MS for days in (1, 2, 3, 7, 14, 28)),
)
"""Lengths of candles (ms). Weeks begin on Thursday, the weekday of 1970-01-01."""


class BarColumns(NamedTuple):
    """Bars of one symbol in order of time: open and close times (UTC ms), both of shape (n,), and `values` of
    shape (5, n): open, high, low, close and volume.
    """

    start: Ints
    close_ts: Ints
    values: Floats

    @property
    def close(self) -> Floats:
        """The closing prices."""
        prices: Floats = self.values[3]
        return prices

    def since(self, ts: int) -> BarColumns:
        """Return the bars that close after `ts`."""
        first = int(np.searchsorted(self.close_ts, ts, side="right"))
        return BarColumns(self.start[first:], self.close_ts[first:], self.values[:, first:])


def candles_of(bars: BarColumns, interval: int, most: int) -> Candles:
    """Return at most about `most` candles, the shortest possible, of bars of `interval` (ms)."""
    return fold(Candles(interval, bars.start.tolist(), *bars.values.tolist()), most)


def fold(candles: Candles, most: int) -> Candles:
    """Fold candles into longer ones until there are at most `most`; those of months stay as they are."""
    if len(candles.ts) <= most or candles.interval in MONTHS:
        return candles
    ts = np.array(candles.ts, np.int64)
    for length in LADDER:
        if length > candles.interval and length % candles.interval == 0:
            slots = ts // length
            if np.count_nonzero(np.diff(slots)) + 1 <= most or length == LADDER[-1]:
                return _folded(candles, slots, length)
    return candles


def _folded(candles: Candles, slots: Ints, length: int) -> Candles:
    first = np.flatnonzero(np.diff(slots, prepend=slots[0] - 1))
    last = np.append(first[1:], len(slots)) - 1
    return Candles(
        length,
        (slots[first] * length).tolist(),
        np.array(candles.open)[first].tolist(),
        np.maximum.reduceat(np.array(candles.high), first).tolist(),
        np.minimum.reduceat(np.array(candles.low), first).tolist(),
        np.array(candles.close)[last].tolist(),
        np.add.reduceat(np.array(candles.volume), first).tolist(),
    )
