"""News files as streams of `News` events, sorted by availability.

A headline is available later than it is published, when a poller sees it. If a file doesn't state when its
headlines were first seen, a delay is added. Columns that are filled only later (votes, likes, tags) are never
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from agent.core.events import News
from agent.data.columns import Aliases
from agent.data.rows import Rows
from agent.data.text import MAX_SUMMARY, news_id, plain

Times = NDArray[np.int64]
# how exports write a missing value
_MISSING: Final = frozenset({"nan", "none", "null", "nat", "n/a", "<na>"})
_CODE: Final = re.compile(r"""["'](?:code|symbol|ticker)["']\s*:\s*["']([^"']*)["']""", re.IGNORECASE)
"""A ticker in the text of a list of objects, such as CryptoPanic's, in JSON or Python notation."""

# values of `trusted_time` that mean yes; others mean no
_TRUSTED: Final = _MISSING | {"", "true", "t", "yes", "y", "1", "1.0"}

COLUMNS: Final[Aliases] = {
    "published_at": ("published_at", "published", "ts", "timestamp", "time", "date", "datetime"),
    "available_at": ("available_at", "first_seen", "first_seen_at"),
    "title": ("title", "headline"),
    "summary": ("summary", "description"),
    "publisher": ("publisher", "source"),
    "currencies": ("currencies", "tickers"),
    "url": ("url", "link"),
    "id": ("id",),
    "trusted_time": ("trusted_time",),
}


@dataclass(slots=True)
class NewsStats:
    """Counts of a pass over a file so far; times are publications in UTC ms (0: none)."""

    rows: int = 0  # in the file
    news: int = 0  # yielded
    first: int = 0
    last: int = 0
    duplicates: int = 0  # an id that occurred before
    untrusted: int = 0  # no time, or one that the file marks as untrusted
    untitled: int = 0
    dates: int = 0  # a date without a time: known at the end of that day
    outside: int = 0  # known before or after the window
    doubtful: str = ""  # number of times that may be dates of another zone, and so known only a day later
    early: int = 0  # first seen before publication, according to the file
    seen: int = 0  # yielded ones that are known from when they were first seen
    delayed: int = 0  # yielded ones that are known by their publication and a delay
    abstained: int = 0  # in a file of scores: without probabilities
    shared_ids: int = 0  # with the id or address of an earlier headline of another title

    def count(self, ts: int, *, seen: bool) -> None:
        """Count a headline published at `ts`; `seen`: the file states when it was first seen."""
        self.news += 1
        self.seen += seen
        self.delayed += not seen
        self.first = min(self.first or ts, ts)
        self.last = max(self.last, ts)

    def notes(self) -> list[str]:
        """Return the counts as sentences."""
        counts = {
            "without a time, or with one that isn't trusted, left out": self.untrusted,
            "without a title left out": self.untitled,
            "that are duplicates left out": self.duplicates,
            "known before or after the window left out": self.outside,
            "with a date but no time: known at the end of that day": self.dates,
            "first seen before their publication: known at publication": self.early,
            "without probabilities: no score": self.abstained,
            "share their id or address with another headline: distinguished by their titles": self.shared_ids,
        }
        notes = [f"{count:,} headlines {what}" for what, count in counts.items() if count]
        if self.seen:
            total = self.seen + self.delayed
            share = f"{self.seen:,} of {total:,} headlines are known from when they were first seen"
            rest = ", the others by publication and history.feed_delay" if self.delayed else ""
            notes.append(share + rest)
        if self.doubtful:
            advice = "if these are dates of another zone, they are known a day too early; state its timezone"
            notes.append(f"{self.doubtful}: {advice}")
        return notes


class NewsFile:
    """Iterable of the headlines in a parquet, CSV or JSON-lines file, by availability.

    It can be iterated repeatedly. `available_at` is the file's own, if it has the column (but never before
    publication), else publication + `feed_delay` (ms). The window [`start`, `end`) is of availability, in UTC
    ms. Rows without a trusted time or a title, and duplicates, are left out and counted in `stats`. Headlines
    with the same id or address but different titles are different. A date without a time is the end of its
    day. `timezone` is that of naive times. Memory grows with the file.

    Raises DataError while iterating.
    """

    def __init__(
        self,
        path: str | Path,
        feed_delay: int = 60_000,
        *,
        start: int | None = None,
        end: int | None = None,
        timezone: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.feed_delay = feed_delay
        self.start, self.end = start, end
        self.stats = NewsStats()
        self._timezone = timezone

    def __iter__(self) -> Iterator[News]:
        self.stats = stats = NewsStats()
        return self._events(stats)

    def _events(self, stats: NewsStats) -> Iterator[News]:
        rows = Rows(
            self.path,
            COLUMNS,
            required=("published_at", "title"),
            times=("published_at", "available_at"),
            timezone=self._timezone,
            publications=True,
        )
        published = rows.publications()
        stats.rows, stats.dates, stats.doubtful = len(published), rows.dates, rows.doubtful
        seen = rows.times.get("available_at", np.zeros_like(published))
        stats.early = int(((seen > 0) & (seen < published)).sum())
        available = np.where(seen > 0, np.maximum(seen, published), published + self.feed_delay)
        stats.untrusted = int((published == 0).sum())
        order = in_window(published, available, self.start, self.end)
        stats.outside = stats.rows - stats.untrusted - len(order)
        known: dict[str, str] = {}
        times = published[order].tolist(), available[order].tolist(), (seen[order] > 0).tolist()
        for ts, available_at, was_seen, row in zip(*times, rows.texts(order), strict=True):
            if not has_trusted_time(row):
                stats.untrusted += 1
                continue
            news = to_news(ts, available_at, row)
            if not news.title:
                stats.untitled += 1
                continue
            own = with_own_id(news, known)
            stats.shared_ids += own is not news
            if own.id in known:
                stats.duplicates += 1
            else:
                known[own.id] = own.title
                stats.count(ts, seen=was_seen)
                yield own


def has_trusted_time(row: Mapping[str, Any]) -> bool:
    """Return whether the file marks the row's time as trusted; without a mark it is."""
    return (row.get("trusted_time") or "").strip().lower() in _TRUSTED


def with_own_id(news: News, known: Mapping[str, str]) -> News:
    """Return `news`, with a new id if its id belongs to another title; `known` maps ids to titles."""
    if known.get(news.id, news.title) == news.title:
        return news
    return replace(news, id=news_id("", news.id, news.title, 0))


def in_window(published: Times, available: Times, start: int | None, end: int | None) -> Times:
    """Return the indices of rows with a time that are available in [`start`, `end`), by availability."""
    inside = published > 0
    if start is not None:
        inside &= available >= start
    if end is not None:
        inside &= available < end
    order = np.flatnonzero(inside)
    return order[np.argsort(available[order], kind="stable")]


def to_news(ts: int, available_at: int, row: Mapping[str, Any]) -> News:
    """Return the event of a row, with cleaned texts."""
    texts = (plain(row.get(name)) for name in ("title", "publisher", "url", "id"))
    title, publisher, url, own = ("" if text.lower() in _MISSING else text for text in texts)
    summary = plain(row.get("summary"), MAX_SUMMARY)
    return News(
        id=own or news_id(url, publisher, title, ts),
        ts=ts,
        available_at=available_at,
        title=title,
        summary="" if summary.lower() in _MISSING else summary,
        publisher=publisher,
        url=url,
        currencies=tickers(row.get("currencies")),
    )


def tickers(value: str | list[str | None] | None) -> tuple[str, ...]:
    """Return the tickers in a text or list, in upper case and without repetitions.

    A text may be `BTC, eth`, or a list in JSON or Python notation (`['BTC', 'ETH']`, `[{"code": "BTC"}, …]`).
    """
    values = value if isinstance(value, list) else [value]
    texts = [" ".join(_CODE.findall(text)) or text if text and "{" in text else text for text in values]
    parts = [part for text in texts for part in re.split(r"[][(){}\"',;|\s]+", text or "")]
    found = [part.lstrip("$#").upper() for part in parts]
    return tuple(dict.fromkeys(ticker for ticker in found if ticker and ticker.lower() not in _MISSING))
