"""Surrogate data: the days of a market, or its headlines, in a random order over the same times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.core.events import DAY_MS, Event, Kline, News, Sentiment
from agent.data.merge import merge

_MIN_BLOCKS: Final = 10
"""A history of fewer days is divided into this number of blocks instead."""


def reorder_days(market_events: Iterable[Event], seed: int) -> list[Event]:
    """Return the market with its days in a random order, so that no day keeps its place.

    Bars keep the shape of their day (ranges, volumes, what happens at which hour, and in all symbols at
    once), so the surrogate is as volatile as the real market. But its prices up to some time hold no
    information about the real prices after that time.
    """
    events = list(market_events)
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
    length = min(DAY_MS, max(1, (last - first) // _MIN_BLOCKS))
    source_blocks = _random_cycle((last - first) // length + 1, random)
    for symbol, own in bars.items():
        starts = np.array([bar.start for bar in own], np.int64)
        blocks, within = np.divmod(starts - first, length)
        # The bar at the same time of the source day, or the next one
        sources = np.minimum(
            np.searchsorted(starts, first + source_blocks[blocks] * length + within), len(starts) - 1
        )
        level = own[0].open
        for row, bar, number in zip(rows[symbol], own, sources.tolist(), strict=True):
            source = own[number]
            scale = level / (own[number - 1].close if number else source.open)
            level = source.close * scale
            events[row] = msgspec.structs.replace(
                bar,
                open=source.open * scale,
                high=source.high * scale,
                low=source.low * scale,
                close=level,
                volume=source.volume,
                turnover=source.turnover * scale,
            )
    return events


def _random_cycle(n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return a random cyclic permutation of 0 … n - 1 (Sattolo): no number keeps its place."""
    order = random.permutation(n)
    places = np.empty(n, np.int64)
    places[order] = np.roll(order, 1)
    return places


class _Item(NamedTuple):
    """A headline and its score; one of the two may be missing."""

    news: News | None
    sentiment: Sentiment | None


def shuffle_headlines(news_events: Sequence[Event], seed: int) -> list[Event]:
    """Return the headlines and their scores in a random order over the same times, in total order.

    Each headline gets the times of another one, and its score with it. Texts and the number of headlines at
    each time stay the same.
    """
    items: dict[str, _Item] = {}
    for event in news_events:
        if isinstance(event, News):
            items[event.id] = _Item(event, None)
        elif isinstance(event, Sentiment):
            items[event.news_id] = items.get(event.news_id, _Item(None, None))._replace(sentiment=event)
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    found = list(items.values())
    news: list[Event] = []
    scores: list[Event] = []
    for item, place in zip(found, order, strict=True):
        slot = found[place]
        first = slot.news or slot.sentiment
        last = slot.sentiment or slot.news
        if item.news is not None and first is not None:
            news.append(msgspec.structs.replace(item.news, ts=first.ts, available_at=first.available_at))
        if item.sentiment is not None and last is not None:
            scores.append(
                msgspec.structs.replace(item.sentiment, ts=last.available_at, available_at=last.available_at)
            )
    known = attrgetter("available_at")
    return list(merge([sorted(news, key=known), sorted(scores, key=known)]))
