"""The parsed content of a feed document."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Entry(NamedTuple):
    """One item of a feed; texts are plain and bounded."""

    # a hash of its id, else of its link, else of title and link; an id or link that others of the document
    # share doesn't count
    key: str
    title: str
    summary: str
    url: str  # "" if it isn't an http(s) address
    published_raw: str
    published: int | None  # UTC ms; None if the feed states no date that can be read
    publisher: str  # the original source, if the feed is an aggregation
    # hashes of its id and of its link, each with its title: an entry that shares one is the same
    names: tuple[str, ...] = ()
    # UTC ms; of a date that leaves its zone open, the latest moment that it can mean
    latest: int | None = None


class Document(NamedTuple):
    """A feed that was read, its entries in the order of the document, which is mostly newest first."""

    title: str
    entries: list[Entry]
    empty: int  # entries without text, left out
    cut_off: bool = False  # it ends too early, so its last entry, which may lack anything, is left out


def newest_first(entries: Sequence[Entry], limit: int, until: int) -> list[Entry]:
    """At most `limit` entries, the newest by date, in the document's order, which is turned round if the
    document begins with the oldest.

    An entry without a date, or with one after `until` (UTC ms), counts as its next newer neighbour does, else
    as the newest one with a date. A document without dates begins with the newest.
    """
    dates = [
        entry.published if entry.published is not None and entry.published <= until else None
        for entry in entries
    ]
    known = [date for date in dates if date is not None]
    rising = sum(one < other for one, other in pairwise(known))
    falling = sum(one > other for one, other in pairwise(known))
    ordered = list(entries)
    if rising > falling:
        ordered.reverse()
        dates.reverse()
    if len(ordered) <= limit or not known:
        return ordered[:limit]
    last = next(date for date in dates if date is not None)
    ages: list[tuple[int, int]] = []
    for place, date in enumerate(dates):
        last = last if date is None else date
        ages.append((-last, place))
    return [ordered[place] for place in sorted(place for _, place in sorted(ages)[:limit])]
