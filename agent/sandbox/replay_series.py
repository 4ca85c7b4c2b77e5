"""Bars of one symbol, shifted in time to the present, with a synthetic price path inside each bar."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import DataError
from agent.core.events import DAY_MS, MINUTE_MS, Gap, Kline

Times = NDArray[np.int64]

MINUTES: Final = ("1", "3", "5", "15", "30", "60", "120", "240", "360", "720")
INTERVALS: Final = (*MINUTES, "D", "W", "M")

_WEEK_MS: Final = 7 * DAY_MS
_MONDAY_MS: Final = 4 * DAY_MS  # 1970-01-05

CLOSE_DELAY_MS: Final = 100
"""Delay of a bar's confirmation after its end (at most a twentieth of the bar), as on the real venue."""


class Candle(NamedTuple):
    """One candle from `start` to `end` (exclusive), UTC ms; volume in base coin, turnover in quote coin."""

    start: int
    end: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float


class PriceMove(NamedTuple):
    """An event at `time`: price number `step` of bar number `bar`, or the bar's close after its last step."""

    time: int
    symbol: str
    bar: int
    step: int


class ReplaySeries:
    """Bars of `interval` ms with `steps` prices each.

    The price path is drawn from `seed` and the bar's position in the file, so it is reproducible. If a bar
    has no turnover, the turnover is volume times the mean of its four prices. Raises DataError if there are
    no bars.
    """

    def __init__(
        self, symbol: str, interval: int, events: Iterable[Kline | Gap], *, steps: int, seed: int
    ) -> None:
        rows = [
            (
                k.start,
                k.open,
                k.high,
                k.low,
                k.close,
                k.volume,
                k.turnover if k.turnover == k.turnover else k.volume * _mean(k),
            )
            for k in events
            if isinstance(k, Kline)
        ]
        if not rows:
            raise DataError(f"no bars of {symbol}")
        self.symbol = symbol
        self.interval = interval
        self.steps = steps
        self.start: Times = np.array([row[0] for row in rows], np.int64)
        self._values = np.array([row[1:] for row in rows])
        self._seed = seed
        self._bars_of_file = len(rows)
        self.hidden: set[int] = set()  # starts of bars that REST history omits
        self.path = lru_cache(maxsize=8)(self._path)

    def shift(self, by: int) -> None:
        """Move all bars by this number of ms."""
        self.start += by

    def repeat(self, first: int) -> None:
        """Append the file's bars from index `first` on again, with times that continue without a gap."""
        again = slice(first, self._bars_of_file)
        offset = int(self.start[-1]) + self.interval - int(self.start[first])
        self.start = np.concatenate((self.start, self.start[again] + offset))
        self._values = np.concatenate((self._values, self._values[again]))

    def __len__(self) -> int:
        return len(self.start)

    def bar(self, index: int) -> Candle:
        start = int(self.start[index])
        return Candle(start, start + self.interval, *self._values[index].tolist())

    def index_at(self, time: int) -> int:
        """Return the index of the last bar that has begun at `time`, or -1 before the first bar."""
        return int(np.searchsorted(self.start, time, "right")) - 1

    # -- inside a bar ---------------------------------------------------------------------------------------

    def _path(self, index: int) -> tuple[float, ...]:
        """Return the prices of a bar: straight lines from open to one extreme, the other extreme and close.

        Prices have as many decimals as the bar's own prices.
        """
        bar = self.bar(index)
        rng = random.Random(f"{self._seed}/{self.symbol}/{index % self._bars_of_file}")
        turns = (
            (bar.open, bar.low, bar.high, bar.close)
            if rng.random() < 0.5
            else (bar.open, bar.high, bar.low, bar.close)
        )
        decimals = max(_decimals(price) for price in turns)
        corners = np.round(np.linspace(0, self.steps - 1, 4)).astype(int)
        prices = np.round(np.interp(np.arange(self.steps), corners, turns), decimals)
        prices[corners] = turns
        return tuple(prices.tolist())

    def moves(self, index: int) -> Iterator[PriceMove]:
        """Yield all events of a bar in order."""
        start = int(self.start[index])
        for step in range(self.steps):
            yield PriceMove(
                start + (2 * step + 1) * self.interval // (2 * self.steps), self.symbol, index, step
            )
        yield PriceMove(
            start + self.interval + min(CLOSE_DELAY_MS, self.interval // 20), self.symbol, index, self.steps
        )

    def running(self, index: int, done: int) -> Candle:
        """Return the bar after its first `done` prices (at least one)."""
        bar = self.bar(index)
        if done >= self.steps:
            return bar
        seen = self.path(index)[:done]
        share = done / self.steps
        return bar._replace(
            high=max(seen),
            low=min(seen),
            close=seen[-1],
            volume=bar.volume * share,
            turnover=bar.turnover * share,
        )

    # -- history --------------------------------------------------------------------------------------------

    def candle(self, interval: str, index: int, done: int) -> Candle:
        """Return the candle of `interval` that contains bar `index`, after `done` prices of that bar."""
        start = int(bar_starts(interval, self.start[index : index + 1])[0])
        first = int(np.searchsorted(self.start, start))
        return self._merge(start, bar_end(interval, start), first, index, self.running(index, done))

    def candles(
        self, interval: str, index: int, done: int, *, since: int | None, until: int | None, limit: int
    ) -> list[Candle]:
        """Return candles up to the running one, newest first, with starts in [since, until].

        As at the venue, `limit` counts forward from `since` if `until` is not given, otherwise back from the
        newest.
        """
        if self.interval > duration(interval) or index < 0:
            return []
        seen = self.start[: index + 1 if done else index]
        first, past = 0, len(seen)
        if until is not None:
            past = min(
                past,
                int(
                    np.searchsorted(seen, bar_end(interval, int(bar_starts(interval, np.array([until]))[0])))
                ),
            )
        if since is not None:
            first = int(np.searchsorted(seen, since))
        elif past:
            window_ms = limit * (duration(interval) if interval != "M" else 31 * DAY_MS)
            first = int(np.searchsorted(seen, bar_starts(interval, seen[past - 1 : past] - window_ms)[0]))
        starts = bar_starts(interval, seen[first:past])
        edges = np.flatnonzero(np.diff(starts, prepend=-1)) + first
        if (
            since is not None
            and len(edges)
            and int(bar_starts(interval, seen[edges[0] : edges[0] + 1])[0]) < since
        ):
            edges = edges[1:]
        edges = edges[:limit] if since is not None and until is None else edges[max(0, len(edges) - limit) :]
        candles, interval_ms = [], duration(interval)
        for edge in edges.tolist():
            start = int(bar_starts(interval, seen[edge : edge + 1])[0])
            last = int(np.searchsorted(seen, bar_end(interval, start))) - 1
            newest = self.running(index, done) if last == index else self.bar(last)
            if start not in self.hidden or interval_ms != self.interval:
                candles.append(self._merge(start, bar_end(interval, start), edge, last, newest))
        return candles[::-1]

    def window(self, index: int, done: int, span: int) -> Candle:
        """Return the last `span` ms as one candle."""
        newest = self.running(index, max(done, 1))
        first = int(np.searchsorted(self.start, newest.end - span))
        return self._merge(newest.end - span, newest.end, min(first, index), index, newest)

    def _merge(self, start: int, end: int, first: int, last: int, newest: Candle) -> Candle:
        """Merge the bars `first` to `last` into one candle; `newest` replaces the last of them."""
        if first >= last:
            return newest._replace(start=start, end=end)
        before = self._values[first:last]
        return Candle(
            start,
            end,
            float(before[0, 0]),
            max(float(before[:, 1].max()), newest.high),
            min(float(before[:, 2].min()), newest.low),
            newest.close,
            float(before[:, 4].sum()) + newest.volume,
            float(before[:, 5].sum()) + newest.turnover,
        )


def _mean(kline: Kline) -> float:
    return (kline.open + kline.high + kline.low + kline.close) / 4


def _decimals(price: float) -> int:
    return len(repr(price).partition(".")[2]) if "e" not in repr(price) else 12


def duration(interval: str) -> int:
    """Return the length of an interval in ms. A month counts as 28 days: only finer intervals matter."""
    return (
        int(interval) * MINUTE_MS
        if interval in MINUTES
        else {"D": DAY_MS, "W": _WEEK_MS, "M": 28 * DAY_MS}[interval]
    )


def bar_starts(interval: str, times: Times) -> Times:
    """Return the start of the bar that contains each time (UTC ms). Weeks begin on Monday."""
    if interval == "M":
        return (
            times.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        )
    size = duration(interval)
    offset = _MONDAY_MS if interval == "W" else 0
    return (times - offset) // size * size + offset


def bar_end(interval: str, start: int) -> int:
    """Return the start of the next bar."""
    if interval != "M":
        return start + duration(interval)
    moment = datetime.fromtimestamp(start / 1000, UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)
