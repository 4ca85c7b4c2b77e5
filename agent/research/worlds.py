"""Other markets: the same times with another future, or with another course of prices altogether."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.core.events import DAY_MS, Event, Kline, Sentiment

_AHEAD: Final = 5_000
"""Events of another future: more than any look ahead that pays needs."""

_FEWEST: Final = 10
"""Days, or parts, that a market is cut into to be put together anew."""


def other_future(events: Sequence[Event], cut: int) -> list[Event]:
    """The first `cut` events as they are, then the next ones turned around: what rose falls, what was good news is bad news."""
    pivots: dict[str, float] = {}
    for event in reversed(events[:cut]):
        if isinstance(event, Kline):
            pivots.setdefault(event.symbol, event.close)
    return [*events[:cut], *(_turned(event, pivots) for event in islice(events, cut, cut + _AHEAD))]


def _turned(event: Event, pivots: dict[str, float]) -> Event:
    if isinstance(event, Sentiment):
        return msgspec.structs.replace(event, bearish=event.bullish, bullish=event.bearish)
    if not isinstance(event, Kline):
        return event
    square = pivots.setdefault(event.symbol, event.open) ** 2
    opened, high, low, close = (square / price for price in (event.open, event.low, event.high, event.close))
    return msgspec.structs.replace(event, open=opened, high=high, low=low, close=close)


def elsewhere(tape: Iterable[Event], seed: int) -> list[Event]:
    """A market that never was: the days of `tape` in another order, at the times of the real ones; no day stays in its place.

    Bars keep the shape of their day (ranges, volumes, what happens at which hour, and in all symbols at once), so it is as lively
    as the real one; but what it shows by some moment says nothing of what the real one did after it.
    """
    events = list(tape)
    random = np.random.default_rng(seed)
    rows: dict[str, list[int]] = {}
    bars: dict[str, list[Kline]] = {}
    for row, event in enumerate(events):
        if isinstance(event, Kline):
            rows.setdefault(event.symbol, []).append(row)
            bars.setdefault(event.symbol, []).append(event)
    if not bars:
        return events
    first, last = min(own[0].start for own in bars.values()), max(own[-1].start for own in bars.values())
    length = min(DAY_MS, max(1, (last - first) // _FEWEST))
    source = _no_fixed_point((last - first) // length + 1, random)
    for symbol, own in bars.items():
        taken = _sources(np.array([bar.start for bar in own], np.int64), first, length, source)
        level = own[0].open
        for row, bar, number in zip(rows[symbol], own, taken.tolist(), strict=True):
            other = own[number]
            scale = level / (own[number - 1].close if number else other.open)
            level = other.close * scale
            events[row] = msgspec.structs.replace(
                bar,
                open=other.open * scale,
                high=other.high * scale,
                low=other.low * scale,
                close=level,
                volume=other.volume,
                turnover=other.turnover * scale,
            )
    return events


def _sources(
    starts: NDArray[np.int64], first: int, length: int, source: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each bar the number of the one that it takes its shape from: at the same time of another day, or the next one there."""
    days, within = np.divmod(starts - first, length)
    found = np.searchsorted(starts, first + source[days] * length + within)
    return np.minimum(found, len(starts) - 1)


def _no_fixed_point(n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """A random cycle through 0 … n - 1 (Sattolo's): each in the place of another one."""
    order = random.permutation(n)
    places = np.empty(n, np.int64)
    places[order] = np.roll(order, 1)
    return places
