"""Headlines at each other's times: a system that reads the news must do worse with them, or it doesn't read."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np

from agent.core.events import Event, News, Sentiment
from agent.data.merge import merge


class _Item(NamedTuple):
    """A headline with its score; one of them may be missing."""

    news: News | None
    sentiment: Sentiment | None


def shuffled(wire: Sequence[Event], seed: int) -> list[Event]:
    """The headlines of `wire` and their scores in a random order over the same moments, in total order.

    Each item (a headline with its score) gets the times of another one; how many come when, and what they say, stays as it was.
    """
    items: dict[str, _Item] = {}
    for event in wire:
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
