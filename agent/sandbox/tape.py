"""The bars of one symbol, moved in time so that they happen now, and the path that the price takes inside each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from agent.core.errors import DataError
from agent.core.events import DAY_MS, Gap, Kline
from agent.sandbox.intervals import Times, bar_end, bar_starts, duration

CLOSE_DELAY_MS: Final = 100
"""A bar is confirmed this much after its end (a twentieth of the bar, if that is less): late, as on the real venue."""


class Bar(NamedTuple):
    """One candle: `start` inclusive and `end` exclusive in UTC ms, volume in base coin, turnover in quote currency."""

    start: int
    end: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float


class Move(NamedTuple):
    """One thing that happens on a tape at `time`: the `step`-th price of the `bar`-th bar, or, with step = steps, its close."""

    time: int
    symbol: str
    bar: int
    step: int


class Tape:
    """Bars of `interval` ms; `steps` prices a bar, drawn from `seed` and the bar's own place in the file, so always the same.

    A bar without a stated turnover gets volume times the mean of its four prices. Raises DataError without bars.
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
        self.hidden: set[int] = set()  # starts of bars that history denies having seen
        self.path = lru_cache(maxsize=8)(self._path)

    def shift(self, by: int) -> None:
        """Move all bars by so many ms."""
        self.start += by

    def repeat(self, first: int) -> None:
        """Append the file's bars from index `first` on once more, as if time went on."""
        again = slice(first, self._bars_of_file)
        offset = int(self.start[-1]) + self.interval - int(self.start[first])
        self.start = np.concatenate((self.start, self.start[again] + offset))
        self._values = np.concatenate((self._values, self._values[again]))

    def __len__(self) -> int:
        return len(self.start)

    def bar(self, index: int) -> Bar:
        """The whole bar."""
        start = int(self.start[index])
        return Bar(start, start + self.interval, *self._values[index].tolist())

    def index_at(self, time: int) -> int:
        """The last bar that has begun at `time`; -1 before the first."""
        return int(np.searchsorted(self.start, time, "right")) - 1

    # -- inside a bar ------------------------------------------------------------------------------------------------

    def _path(self, index: int) -> tuple[float, ...]:
        """Open, one extreme, the other, close, and straight lines between them, rounded as the bar's own prices are."""
        bar = self.bar(index)
        dice = random.Random(f"{self._seed}/{self.symbol}/{index % self._bars_of_file}")
        turns = (
            (bar.open, bar.low, bar.high, bar.close)
            if dice.random() < 0.5
            else (bar.open, bar.high, bar.low, bar.close)
        )
        decimals = max(_decimals(price) for price in turns)
        corners = np.round(np.linspace(0, self.steps - 1, 4)).astype(int)
        prices = np.round(np.interp(np.arange(self.steps), corners, turns), decimals)
        prices[corners] = turns
        return tuple(prices.tolist())

    def moves(self, index: int) -> Iterator[Move]:
        """All that happens in a bar, in order."""
        start = int(self.start[index])
        for step in range(self.steps):
            yield Move(start + (2 * step + 1) * self.interval // (2 * self.steps), self.symbol, index, step)
        yield Move(
            start + self.interval + min(CLOSE_DELAY_MS, self.interval // 20), self.symbol, index, self.steps
        )

    def running(self, index: int, done: int) -> Bar:
        """The bar after its first `done` prices, at least one."""
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

    # -- history -----------------------------------------------------------------------------------------------------

    def candle(self, interval: str, index: int, done: int) -> Bar:
        """The candle of `interval` that holds bar `index`, as it stands after `done` of that bar's prices."""
        start = int(bar_starts(interval, self.start[index : index + 1])[0])
        first = int(np.searchsorted(self.start, start))
        return self._merge(start, bar_end(interval, start), first, index, self.running(index, done))

    def candles(
        self, interval: str, index: int, done: int, *, since: int | None, until: int | None, limit: int
    ) -> list[Bar]:
        """Candles up to the running one, newest first, with starts in [since, until].

        `limit` counts from `since` on where that is given without `until`, else back from the newest: as the venue does.
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
            reach = limit * (duration(interval) if interval != "M" else 31 * DAY_MS)
            first = int(np.searchsorted(seen, bar_starts(interval, seen[past - 1 : past] - reach)[0]))
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

    def window(self, index: int, done: int, span: int) -> Bar:
        """All that was traded in the `span` ms up to now, as one bar."""
        newest = self.running(index, max(done, 1))
        first = int(np.searchsorted(self.start, newest.end - span))
        return self._merge(newest.end - span, newest.end, min(first, index), index, newest)

    def _merge(self, start: int, end: int, first: int, last: int, newest: Bar) -> Bar:
        """Bars `first` to `last` as one, the last of them as `newest` says."""
        if first >= last:
            return newest._replace(start=start, end=end)
        before = self._values[first:last]
        return Bar(
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
