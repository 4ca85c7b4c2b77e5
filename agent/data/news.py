"""News files as a stream of `News` events in the order in which they could be known.

Publication is not availability: a poller sees a headline later. A file that doesn't say when each was first seen gets a delay.
Columns that only hindsight can fill (votes, likes, later tags) are never read.
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
# how exports write that there is none
_MISSING: Final = frozenset({"nan", "none", "null", "nat", "n/a", "<na>"})
_CODE: Final = re.compile(r"""["'](?:code|symbol|ticker)["']\s*:\s*["']([^"']*)["']""", re.IGNORECASE)
"""The ticker in a list of objects as text, as CryptoPanic's: JSON, or what Python prints of one."""

# `trusted_time`; all else is not trusted
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
    """What a pass over a file has given out so far, and what it has left out; times are publications in UTC ms (0: none)."""

    rows: int = 0  # in the file
    news: int = 0
    first: int = 0
    last: int = 0
    duplicates: int = 0  # an id that came before
    untrusted: int = 0  # no time, or one that the file itself doesn't trust
    untitled: int = 0
    dates: int = 0  # with a date and no time: known at the end of that day
    outside: int = 0  # known before or after the window
    doubtful: str = ""  # how many may be dates of another time zone, and so known only a day later
    early: int = 0  # first seen before publication, as the file states it
    abstained: int = 0  # of a file of scores: without probabilities
    shared_ids: int = 0  # whose id or address an earlier headline with another title has

    def count(self, ts: int) -> None:
        """One more given out, published at `ts`."""
        self.news += 1
        self.first = min(self.first or ts, ts)
        self.last = max(self.last, ts)

    def notes(self) -> list[str]:
        """What a run says of the file, for people."""
        counts = {
            "without a time, or with one that isn't trusted, left out": self.untrusted,
            "without a title left out": self.untitled,
            "that came before left out": self.duplicates,
            "known before or after the window left out": self.outside,
            "with a date and no time: known at the end of that day": self.dates,
            "first seen before their publication: known at publication": self.early,
            "without probabilities: no score": self.abstained,
            "share their id or address with another headline: told apart by their titles": self.shared_ids,
        }
        notes = [f"{count:,} headlines {what}" for what, count in counts.items() if count]
        if self.doubtful:
            notes.append(
                f"{self.doubtful}: if these are dates of another zone, they are known a day too early; state its timezone"
            )
        return notes


class NewsFile:
    """The headlines of a parquet, CSV or JSON-lines file; iterate it, as often as you like, for `News` sorted by availability.

    `available_at` is the file's own (never before publication) where it has the column, else publication + `feed_delay` (ms).
    The window [`start`, `end`) is of availability, in UTC ms. Rows without a trusted time or a title, and headlines that came
    before, are left out and counted in `stats`. An id or address that an earlier headline with another title has is no identity. A
    date without a time is the end of its day. `timezone` names the zone of naive times. Memory grows with the file.

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
        available = published + self.feed_delay
        if "available_at" in rows.times:
            seen = rows.times["available_at"]
            stats.early = int(((seen > 0) & (seen < published)).sum())
            available = np.where(seen > 0, np.maximum(seen, published), available)
        stats.untrusted = int((published == 0).sum())
        order = in_window(published, available, self.start, self.end)
        stats.outside = stats.rows - stats.untrusted - len(order)
        known: dict[str, str] = {}
        for ts, available_at, row in zip(
            published[order].tolist(), available[order].tolist(), rows.texts(order), strict=True
        ):
            if not has_trusted_time(row):
                stats.untrusted += 1
                continue
            news = to_news(ts, available_at, row)
            if not news.title:
                stats.untitled += 1
                continue
            own = identified(news, known)
            stats.shared_ids += own is not news
            if own.id in known:
                stats.duplicates += 1
            else:
                known[own.id] = own.title
                stats.count(ts)
                yield own


def has_trusted_time(row: Mapping[str, Any]) -> bool:
    """Whether the file trusts the row's time itself; it does if it states nothing."""
    return (row.get("trusted_time") or "").strip().lower() in _TRUSTED


def identified(news: News, known: Mapping[str, str]) -> News:
    """`news`, under an id of its own if a headline with another title has its id; `known` maps ids to titles."""
    if known.get(news.id, news.title) == news.title:
        return news
    return replace(news, id=news_id("", news.id, news.title, 0))


def in_window(published: Times, available: Times, start: int | None, end: int | None) -> Times:
    """Indices of the rows with a publication time whose availability is in [`start`, `end`), by availability."""
    inside = published > 0
    if start is not None:
        inside &= available >= start
    if end is not None:
        inside &= available < end
    order = np.flatnonzero(inside)
    return order[np.argsort(available[order], kind="stable")]


def to_news(ts: int, available_at: int, row: Mapping[str, Any]) -> News:
    """The event of a row's texts, cleaned."""
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
    """`BTC, eth`, a list of such, or a list as text (`['BTC', 'ETH']`, `[{"code": "BTC"}, …]`), as (`BTC`, `ETH`)."""
    values = value if isinstance(value, list) else [value]
    texts = [" ".join(_CODE.findall(text)) or text if text and "{" in text else text for text in values]
    found = [
        ticker.lstrip("$#").upper() for text in texts for ticker in re.split(r"[][(){}\"',;|\s]+", text or "")
    ]
    return tuple(dict.fromkeys(ticker for ticker in found if ticker and ticker.lower() not in _MISSING))
