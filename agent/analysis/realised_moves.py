"""Bullish and bearish calls compared with the price moves after them: hit rate and calibration.

A call is a headline's score for one symbol, if its leading class is not neutral. It is a hit if the price
moved in its direction from the last price known with the call to the last price `horizon` later. Most
headlines report a price that has moved, so a hit rate near one half is expected even of a model that reads
well. The interval is Wilson's (1927) at 95 %; it counts headlines, since the calls on one headline move
together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from math import fsum, sqrt
from typing import Final, NamedTuple

import msgspec
import numpy as np

from agent.analysis.daily import Closes
from agent.core.events import MINUTE_MS, Sentiment
from agent.core.symbols import base_of
from agent.core.votes import leading

ALL: Final = "all"
BEARISH: Final = "bearish"
BULLISH: Final = "bullish"
_NORMAL_95: Final = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution


class DirectionalCall(NamedTuple):
    """A bullish or bearish call for one symbol; `confidence` is its probability."""

    headline: str
    symbol: str
    bullish: bool
    confidence: float
    at: int  # UTC ms when it was known


class Outcome(NamedTuple):
    """A directed call after its horizon."""

    headline: str
    bullish: bool
    confidence: float
    hit: bool


class HitRate(msgspec.Struct, frozen=True):
    """Hit rate of `calls` on `headlines` with its interval; all are None without a call.

    A calibrated `confidence` (mean) equals the rate. `brier` is the mean of (confidence - hit)².
    """

    calls: int
    headlines: int
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    brier: float | None = None


class RealisedMoves(msgspec.Struct, frozen=True):
    """Hit rates by side (`ALL`, `BEARISH`, `BULLISH`); `horizon` in ms.

    `unmoved` calls had no price change, `unpriced` ones no price in time, `pending` ones wait for their
    horizon: all three are left out.
    """

    horizon: int
    sides: dict[str, HitRate]
    unmoved: int
    unpriced: int
    pending: int


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share observed in `count` > 0 cases."""
    square = _NORMAL_95**2
    middle = rate + square / (2 * count)
    half = _NORMAL_95 * sqrt(rate * (1 - rate) / count + square / (4 * count * count))
    scale = 1 + square / count
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def hit_rate(outcomes: Iterable[Outcome]) -> HitRate:
    """Return the hit rate of outcomes."""
    rows = list(outcomes)
    headlines = len({row.headline for row in rows})
    if not rows:
        return HitRate(0, 0)
    rate = sum(row.hit for row in rows) / len(rows)
    return HitRate(
        len(rows),
        headlines,
        rate,
        *wilson(rate, headlines),
        fsum(row.confidence for row in rows) / len(rows),
        fsum((row.confidence - row.hit) ** 2 for row in rows) / len(rows),
    )


def directional_call(sentiment: Sentiment, symbol: str) -> DirectionalCall | None:
    """Return the model's own call for `symbol`; None if it is neutral or the model abstained."""
    if sentiment.abstained:
        return None
    own = sentiment.of(base_of(symbol))
    side = leading(own.bearish, own.neutral, own.bullish)
    if side == 1:
        return None
    confidence = own.bullish if side == 2 else own.bearish
    return DirectionalCall(sentiment.news_id, symbol, side == 2, confidence, sentiment.available_at)


class MoveTally:
    """Collects outcomes; the last `size` count, None for all."""

    def __init__(self, horizon: int, size: int | None = None) -> None:
        self.outcomes: deque[Outcome] = deque()
        self.unmoved = 0
        self.unpriced = 0
        self._horizon = horizon
        self._size = size

    def clear(self) -> None:
        """Forget all outcomes."""
        self.outcomes.clear()
        self.unmoved = self.unpriced = 0

    def add(self, call: DirectionalCall, before: float, after: float) -> None:
        """Add a call with the prices at its time and at its horizon."""
        if before == after:
            self.unmoved += 1
        else:
            hit = (after > before) is call.bullish
            self.outcomes.append(Outcome(call.headline, call.bullish, call.confidence, hit))
            while self._size is not None and len(self.outcomes) > self._size:
                self.outcomes.popleft()

    def result(self, pending: int = 0) -> RealisedMoves:
        """Return the hit rates; `pending` calls wait for their horizon."""
        sides = {
            ALL: hit_rate(self.outcomes),
            BEARISH: hit_rate(one for one in self.outcomes if not one.bullish),
            BULLISH: hit_rate(one for one in self.outcomes if one.bullish),
        }
        return RealisedMoves(self._horizon, sides, self.unmoved, self.unpriced, pending)


def patience_of(interval: int) -> int:
    """Return the age (ms) up to which a price counts as the last one, for bars of `interval` ms."""
    return interval + MINUTE_MS


def moves_of_run(
    calls: Iterable[DirectionalCall], closes: Mapping[str, Closes], interval: int, horizon: int
) -> RealisedMoves:
    """Compare the calls of a recorded run with its closes, by symbol."""
    tally, patience, pending = MoveTally(horizon), patience_of(interval), 0
    for call in calls:
        own = closes.get(call.symbol)
        due = call.at + horizon
        if own is not None and len(own.ts) and due > own.ts[-1]:
            pending += 1
            continue
        before, after = (None if own is None else _row_at(own, ts, patience) for ts in (call.at, due))
        if own is None or before is None or after is None or before == after:
            tally.unpriced += 1
        else:
            tally.add(call, float(own.price[before]), float(own.price[after]))
    return tally.result(pending)


def _row_at(closes: Closes, ts: int, patience: int) -> int | None:
    """Return the row of the last close at or before `ts`; None if it is older than `patience`."""
    row = int(np.searchsorted(closes.ts, ts, side="right")) - 1
    return row if row >= 0 and ts - int(closes.ts[row]) <= patience else None
