"""Compares a live run's journal with what the exchange and its feeds have actually served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import msgspec

from agent.core.events import Event, Gap, Kline, News, Sentiment


class BarAudit(msgspec.Struct):
    """Closed bars. `withheld` bars are in no history and must be gaps in the journal; `missing` are all
    others.
    """

    expected: int = 0
    missing: int = 0
    given_up: int = 0  # missing bars that are a gap in the journal although history had them
    withheld: int = 0
    doubled: int = 0
    wrong: int = 0  # prices or volume differ from the file
    disordered: int = 0

    @property
    def flawless(self) -> bool:
        """Whether every available bar is there once, in order and correct."""
        return not (self.missing or self.doubled or self.wrong or self.disordered)


class HeadlineAudit(msgspec.Struct):
    """Headlines. Each needs a sentiment or a recorded reason; `unaccounted` have neither."""

    served: int = 0
    journalled: int = 0  # includes those published before and after
    missing: int = 0
    doubled: int = 0
    never_served: int = 0
    sentiments: int = 0
    with_reason: int = 0
    unaccounted: int = 0

    @property
    def flawless(self) -> bool:
        """Whether every headline is there once, as served, with a sentiment or a reason for its absence."""
        return not (self.missing or self.doubled or self.never_served or self.unaccounted)


def audit_bars(
    events: Sequence[Event], truth: Mapping[str, Sequence[Kline]], withheld: Mapping[str, Set[int]], last: int
) -> BarAudit:
    """Audit bars from the first in the journal to the one that starts at `last` (UTC ms) against `truth` by
    symbol.

    `withheld` are starts of bars that the exchange's history omits.
    """
    audit = BarAudit()
    for symbol, bars in truth.items():
        closed = [
            e for e in events if isinstance(e, Kline) and e.confirm and e.symbol == symbol and e.start <= last
        ]
        gaps = [e for e in events if isinstance(e, Gap) and e.symbol == symbol]
        first = closed[0].start if closed else 0
        expected = {bar.start: _values(bar) for bar in bars if first <= bar.start <= last}
        starts = Counter(bar.start for bar in closed)
        absent = expected.keys() - starts.keys()
        in_gaps = {start for start in absent if any(gap.start <= start < gap.end for gap in gaps)}
        audit.expected += len(expected)
        audit.withheld += len(in_gaps & withheld[symbol])
        audit.missing += len(absent) - len(in_gaps & withheld[symbol])
        audit.given_up += len(in_gaps - withheld[symbol])
        audit.doubled += starts.total() - len(starts)
        audit.wrong += sum(expected.get(bar.start) != _values(bar) for bar in closed)
        audit.disordered += sum(later.start < earlier.start for earlier, later in pairwise(closed))
    return audit


def audit_headlines(
    events: Sequence[Event], titles: Mapping[str, int], first: int, last: int, reasons: int
) -> HeadlineAudit:
    """News and sentiments against the publication (UTC ms) by title, of what came out from `first` to `last`.

    `reasons` is how many headlines the model's consumer says that it left unscored.
    """
    news = [event for event in events if isinstance(event, News)]
    scored = {event.news_id for event in events if isinstance(event, Sentiment)}
    times = Counter(event.title for event in news)
    due = {title for title, published in titles.items() if first <= published <= last}
    unscored = sum(event.id not in scored for event in news)
    return HeadlineAudit(
        served=len(due),
        journalled=len(news),
        missing=len(due - times.keys()),
        doubled=times.total() - len(times),
        never_served=sum(title not in titles for title in times),
        sentiments=len(scored),
        with_reason=min(unscored, reasons),
        unaccounted=max(0, unscored - reasons),
    )


def _values(bar: Kline) -> tuple[Any, ...]:
    return bar.open, bar.high, bar.low, bar.close, bar.volume
