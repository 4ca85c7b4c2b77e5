"""Parse feed documents into plain entries. Feeds are hostile input: the result is text without markup, or
DataError.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit
from xml.sax import SAXException, SAXParseException

import feedparser
import feedparser.api
import feedparser.encodings

from agent.core.errors import DataError
from agent.data.text import one_line, plain, title_key
from agent.live.news.feed_dates import MAX_LENGTH, FeedDate, parse_date
from agent.live.news.json_feed import is_json, read_json_feed
from agent.live.news.repair import repair_encoding, repair_references, repair_text

MAX_TITLE: Final = 500
MAX_SUMMARY: Final = 2_000
_MAX_URL: Final = 2_000
_MAX_RAW_DATE: Final = 100
_DATES: Final = ("published", "updated", "created")
_DATA_ERRORS: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
_PARSER_ERRORS: Final = (*_DATA_ERRORS, RecursionError, SAXException)
"""Exceptions that feedparser raises for damaged documents; found by fuzzing."""

_CUT_OFF: Final = ("no element found", "unclosed token", "unclosed CDATA section", "partial character")
"""Messages of expat for a document that ends too early."""

MAX_DEPTH: Final = 200
MAX_ATTRIBUTES: Final = 200  # of one element, its namespaces included
MAX_ELEMENTS: Final = 100_000
MAX_NAMESPACES: Final = 200  # of one document
"""Beyond these limits, feedparser's time or memory grows with the square of the size. Real feeds stay far
below them.
"""

_TRACKING: Final = ("utm_", "fbclid=", "gclid=", "mc_cid=", "mc_eid=", "ref=", "cmpid=", "igshid=")
"""Prefixes of URL parameters that track readers."""


class FeedEntry(NamedTuple):
    """One item of a feed; texts are plain and bounded."""

    # hash of the id, else of the link, else of title and link; an id or link that entries share doesn't count
    key: str
    title: str
    summary: str
    url: str  # "" if it isn't an http(s) URL
    published_raw: str
    published: int | None  # UTC ms; None if the feed states no readable date
    publisher: str  # the original source, if the feed aggregates
    names: tuple[
        str, ...
    ] = ()  # hashes of id and title, and of link and title; entries that share one are the same
    latest: int | None = None  # UTC ms; for a date without a known zone, the latest moment that it can mean


class FeedDocument(NamedTuple):
    """A parsed feed; the entries are in the order of the document, usually newest first."""

    title: str
    entries: list[FeedEntry]
    empty: int  # entries without text, left out
    cut_off: bool = False  # the document ends too early; its last entry, which may be incomplete, is left out


def newest_first(entries: Sequence[FeedEntry], limit: int, until: int) -> list[FeedEntry]:
    """Return the `limit` newest entries in the document's order, reversed if the document begins with the
    oldest.

    An entry without a date, or with one after `until` (UTC ms), gets the date of its next newer neighbour, or
    of the newest dated entry. A document without dates is assumed to begin with the newest.
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
    for index, date in enumerate(dates):
        last = last if date is None else date
        ages.append((-last, index))
    return [ordered[index] for index in sorted(index for _, index in sorted(ages)[:limit])]


class _Bounded:
    """Mixin of feedparser's two parsers that stops as soon as a document exceeds a limit."""

    _elements = 0
    _open = 0
    _declared = 0

    def startPrefixMapping(self, prefix: Any, uri: Any) -> None:
        self._declared += 1
        if self._declared > MAX_ATTRIBUTES:
            raise _LimitExceeded(f"an element with more than {MAX_ATTRIBUTES} attributes")
        super().startPrefixMapping(prefix, uri)  # type: ignore[misc]  # defined by the parser

    def startElementNS(self, name: Any, qname: Any, attrs: Any) -> None:
        self._declared = 0
        self._open += 1
        if self._open > MAX_DEPTH:
            raise _LimitExceeded(f"elements nested more than {MAX_DEPTH} deep")
        if len(attrs) > MAX_ATTRIBUTES:
            raise _LimitExceeded(f"an element with more than {MAX_ATTRIBUTES} attributes")
        super().startElementNS(name, qname, attrs)  # type: ignore[misc]

    def unknown_starttag(self, tag: str, attrs: Any) -> None:
        self._elements += 1
        if len(attrs) > MAX_ATTRIBUTES:
            raise _LimitExceeded(f"an element with more than {MAX_ATTRIBUTES} attributes")
        if self._elements > MAX_ELEMENTS:
            raise _LimitExceeded(f"more than {MAX_ELEMENTS} elements")
        if len(self.namespaces_in_use) > MAX_NAMESPACES:  # type: ignore[attr-defined]
            raise _LimitExceeded(f"more than {MAX_NAMESPACES} namespaces")
        super().unknown_starttag(tag, attrs)  # type: ignore[misc]

    def endElementNS(self, name: Any, qname: Any) -> None:
        # Only the strict parser calls this; in tag soup, unclosed elements don't nest
        self._open -= 1
        super().endElementNS(name, qname)  # type: ignore[misc]


class _LimitExceeded(Exception):
    """A document exceeds a limit."""


_to_utf8 = feedparser.api.convert_to_utf8


def _to_repaired_utf8(headers: Any, data: bytes, result: Any) -> bytes:
    """Repair the encoding, convert with feedparser's `convert_to_utf8`, and repair the character
    references.
    """
    _, charset = feedparser.encodings.parse_content_type(headers.get("content-type") or "")
    return repair_references(_to_utf8(headers, repair_encoding(data, charset), result))


# `feedparser.parse` looks its converter and parsers up by these names of its module
feedparser.api.convert_to_utf8 = _to_repaired_utf8
feedparser.api.StrictFeedParser = type(
    "BoundedStrictFeedParser", (_Bounded, feedparser.api.StrictFeedParser), {}
)
feedparser.api.LooseFeedParser = type(
    "BoundedLooseFeedParser", (_Bounded, feedparser.api.LooseFeedParser), {}
)


def parse_feed(body: bytes, *, url: str = "", content_type: str = "") -> FeedDocument:
    """Parse RSS or Atom of any version, even if malformed, or JSON Feed.

    Raises DataError if the document isn't a feed, or is too damaged. feedparser's `bozo` doesn't show that:
    it is set for slightly malformed feeds too, and not for HTML pages; those have no version.
    """
    if is_json(body):
        title, items = read_json_feed(body)
        return _document(title, items, cut_off=False)
    # Without a content type, feedparser reads undeclared UTF-8 as Latin-1
    headers = {"content-location": url, "content-type": content_type or "application/xml"}
    # As a stream, because feedparser opens the file if bytes happen to be its path
    try:
        feed = feedparser.parse(
            io.BytesIO(body), response_headers=headers, sanitize_html=False, resolve_relative_uris=False
        )
    except _LimitExceeded as error:
        raise DataError(f"the feed exceeds a limit: {error}") from None
    except _PARSER_ERRORS as error:
        hint = f"{type(error).__name__}: {one_line(str(error), 100)}"
        raise DataError("the parser failed on this feed", hint=hint) from error
    if not feed.get("version") and not feed.entries:
        # Without an excerpt: the page may be internal
        raise DataError("neither RSS nor Atom nor JSON Feed", hint=f"{len(body)} bytes")
    if b"\0" in body and not str(feed.get("encoding", "")).lower().startswith(("utf-16", "utf-32")):
        # An entry with a damaged id would count as new
        raise DataError("the feed is damaged", hint="it contains NUL bytes")
    flaw = feed.get("bozo_exception")
    cut_off = isinstance(flaw, SAXParseException) and flaw.getMessage() in _CUT_OFF
    entries = feed.entries[:-1] if cut_off else feed.entries
    return _document(_text(feed.feed, "title"), entries, cut_off=cut_off)


def _document(title: str, raws: Sequence[Any], *, cut_off: bool) -> FeedDocument:
    ambiguous = _ambiguous(raws)
    entries = [entry for raw in raws if (entry := _entry(raw, ambiguous)) is not None]
    return FeedDocument(_plain(title, MAX_TITLE), entries, len(raws) - len(entries), cut_off)


def _ambiguous(raws: Sequence[Any]) -> set[str]:
    """Return ids and links shared by entries with different titles: some feeds give each entry the URL of
    the site.
    """
    titles: dict[str, str] = {}
    return {
        identity
        for raw in raws
        for name in ("id", "link")
        if (identity := _canonical(_text(raw, name)))
        and titles.setdefault(identity, _text(raw, "title")) != _text(raw, "title")
    }


def _entry(raw: Any, ambiguous: set[str]) -> FeedEntry | None:
    summary = _plain(_text(raw, "summary"), MAX_SUMMARY)
    own = _plain(_text(raw, "title"), MAX_TITLE)
    title = own or summary[:MAX_TITLE]  # posts of social networks lack titles
    if not title:
        return None
    link = _text(raw, "link")
    stated = [_canonical(name) for name in (_text(raw, "id"), link) if name]
    identity = next((name for name in stated if name not in ambiguous), f"{title}\x1f{link}")
    words = title_key(
        own if stated else title
    )  # not the summary, which changes with e.g. the number of comments
    published_raw, published = next(_dates(raw), ("", FeedDate(None)))
    source = raw.get("source")
    return FeedEntry(
        _hash(identity),
        title,
        summary,
        one_line(link, _MAX_URL) if len(link) <= _MAX_URL and _is_web(link) else "",
        plain(published_raw, _MAX_RAW_DATE),
        published.at,
        _plain(_text(source, "title"), MAX_TITLE) if isinstance(source, dict) else "",
        tuple(dict.fromkeys(_hash(f"{name}\x1f{words}") for name in stated or [""])),
        published.latest,
    )


def _canonical(name: str) -> str:
    """Normalise a URL to https without tracking parameters, so that variants of one article's URL are
    equal.
    """
    if not name.startswith("http") or not _is_web(name):
        return name
    url = urlsplit(name)
    kept = [one for one in url.query.split("&") if not one.lower().startswith(_TRACKING)] if url.query else []
    return urlunsplit(("https", url.netloc, url.path, "&".join(kept), url.fragment))


def _hash(identity: str) -> str:
    return hashlib.blake2b(identity.encode(errors="replace"), digest_size=16).hexdigest()


def _plain(text: str, limit: int) -> str:
    return plain(repair_text(text[: 4 * limit]), limit)


def _text(raw: Any, name: str) -> str:
    value = raw.get(name)
    return value.strip() if isinstance(value, str) else ""


def _is_web(link: str) -> bool:
    try:
        url = urlsplit(link)
    except ValueError:  # a broken IPv6 host
        return False
    return url.scheme in ("http", "https") and bool(url.hostname)


def _dates(raw: Any) -> Iterator[tuple[str, FeedDate]]:
    """Yield the stated dates with their parsed values, readable ones first."""
    stated = [
        (text, parse_date(plain(text, MAX_LENGTH + 1)))
        for name in _DATES
        if (text := _text(raw, name) if name in raw else "")
    ]
    stated.sort(key=lambda date: date[1].at is None)
    yield from stated
