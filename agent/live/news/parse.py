"""A feed document as plain entries. News is hostile input: whatever comes in, text without markup comes
out, or DataError.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from xml.sax import SAXException, SAXParseException

import feedparser
import feedparser.api
import feedparser.encodings

from agent.core.errors import DataError
from agent.data.text import one_line, plain, title_key
from agent.live.news.document import Document, Entry
from agent.live.news.feed_dates import MAX_LENGTH, Moment, read_date
from agent.live.news.json_feed import is_json, read_json_feed
from agent.live.news.repair import mend, mend_text, mend_utf8

MAX_TITLE: Final = 500
MAX_SUMMARY: Final = 2_000
_MAX_URL: Final = 2_000
_MAX_RAW_DATE: Final = 100
_DATES: Final = ("published", "updated", "created")
_STUMBLES: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, SAXException, TypeError, ValueError,
)  # fmt: skip
"""What feedparser raises now and then of damaged documents; found by damaging many."""


_CUT_OFF: Final = ("no element found", "unclosed token", "unclosed CDATA section", "partial character")
"""What expat says of a document that ends too early."""

MAX_DEPTH: Final = 200
MAX_ATTRIBUTES: Final = 200  # of one element, its namespaces included
MAX_ELEMENTS: Final = 100_000
MAX_NAMESPACES: Final = 200  # of one document
"""Beyond these, feedparser's time or memory grows by the square of the size; no feed of a publisher comes
near them.
"""

_TRACKING: Final = ("utm_", "fbclid=", "gclid=", "mc_cid=", "mc_eid=", "ref=", "cmpid=", "igshid=")
"""Parameters of an address that tell where a reader comes from."""


class _Bounded:
    """Mixed into both of feedparser's parsers: ends the work as soon as a document goes beyond the limits."""

    _elements = 0
    _open = 0
    _declared = 0

    def startPrefixMapping(self, prefix: Any, uri: Any) -> None:
        self._declared += 1
        if self._declared > MAX_ATTRIBUTES:
            raise _TooMuch(f"an element with more than {MAX_ATTRIBUTES} attributes")
        super().startPrefixMapping(prefix, uri)  # type: ignore[misc]  # the parser beside it has it

    def startElementNS(self, name: Any, qname: Any, attrs: Any) -> None:
        self._declared = 0
        self._open += 1
        if self._open > MAX_DEPTH:
            raise _TooMuch(f"elements nested more than {MAX_DEPTH} deep")
        if len(attrs) > MAX_ATTRIBUTES:
            raise _TooMuch(f"an element with more than {MAX_ATTRIBUTES} attributes")
        super().startElementNS(name, qname, attrs)  # type: ignore[misc]

    def unknown_starttag(self, tag: str, attrs: Any) -> None:
        """Called by both parsers for each element."""
        self._elements += 1
        if len(attrs) > MAX_ATTRIBUTES:
            raise _TooMuch(f"an element with more than {MAX_ATTRIBUTES} attributes")
        if self._elements > MAX_ELEMENTS:
            raise _TooMuch(f"more than {MAX_ELEMENTS} elements")
        if len(self.namespaces_in_use) > MAX_NAMESPACES:  # type: ignore[attr-defined]
            raise _TooMuch(f"more than {MAX_NAMESPACES} namespaces")
        super().unknown_starttag(tag, attrs)  # type: ignore[misc]

    def endElementNS(self, name: Any, qname: Any) -> None:
        """Called by the strict parser alone: in the loose one what isn't closed is no depth."""
        self._open -= 1
        super().endElementNS(name, qname)  # type: ignore[misc]


class _TooMuch(Exception):
    """A document beyond the limits."""


_to_utf8 = feedparser.api.convert_to_utf8


def _to_mended_utf8(headers: Any, data: bytes, result: Any) -> bytes:
    """As feedparser's `convert_to_utf8`, whatever the encoding was; then the references are mended."""
    _, charset = feedparser.encodings.parse_content_type(headers.get("content-type") or "")
    return mend(_to_utf8(headers, mend_utf8(data, charset), result))


# `feedparser.parse` makes its parsers from these names of its module, and decodes with this one
feedparser.api.convert_to_utf8 = _to_mended_utf8
feedparser.api.StrictFeedParser = type(
    "BoundedStrictFeedParser", (_Bounded, feedparser.api.StrictFeedParser), {}
)
feedparser.api.LooseFeedParser = type(
    "BoundedLooseFeedParser", (_Bounded, feedparser.api.LooseFeedParser), {}
)


def parse(body: bytes, *, url: str = "", content_type: str = "") -> Document:
    """Read RSS or Atom of any version, as broken as it may be, or JSON Feed.

    Raises DataError if it is no feed, or too damaged to read. feedparser's `bozo` is no help there: it is set
    for feeds that are merely untidy, and not for HTML pages, which have no version.
    """
    if is_json(body):
        title, items = read_json_feed(body)
        return _document(title, items, cut_off=False)
    # Without a type feedparser reads UTF-8 that doesn't say so as Latin-1.
    headers = {"content-location": url, "content-type": content_type or "application/xml"}
    # As a stream: feedparser would take bytes that happen to name a file for that file.
    try:
        feed = feedparser.parse(
            io.BytesIO(body), response_headers=headers, sanitize_html=False, resolve_relative_uris=False
        )
    except _TooMuch as error:
        raise DataError(f"the feed is refused: {error}") from None
    except _STUMBLES as error:
        raise DataError(
            "the feed breaks the parser", hint=f"{type(error).__name__}: {one_line(str(error), 100)}"
        ) from error
    if not feed.get("version") and not feed.entries:
        raise DataError(
            "neither RSS nor Atom nor JSON Feed", hint=f"{len(body)} bytes"
        )  # nothing of a page that is no feed is kept
    if b"\0" in body and not str(feed.get("encoding", "")).lower().startswith(("utf-16", "utf-32")):
        # An entry whose id was hit would be news once more.
        raise DataError("the feed is damaged", hint="no text has NUL bytes")
    flaw = feed.get("bozo_exception")
    cut_off = isinstance(flaw, SAXParseException) and flaw.getMessage() in _CUT_OFF
    return _document(
        _text(feed.feed, "title"), feed.entries[:-1] if cut_off else feed.entries, cut_off=cut_off
    )


def _document(title: str, raws: Sequence[Any], *, cut_off: bool) -> Document:
    ambiguous = _ambiguous(raws)
    entries = [entry for raw in raws if (entry := _entry(raw, ambiguous)) is not None]
    return Document(_plain(title, MAX_TITLE), entries, len(raws) - len(entries), cut_off)


def _ambiguous(raws: Sequence[Any]) -> set[str]:
    """Ids and links that stand for entries with different titles: some feeds give all of them the address
    of the site.
    """
    titles: dict[str, str] = {}
    return {
        identity
        for raw in raws
        for name in ("id", "link")
        if (identity := _canonical(_text(raw, name)))
        and titles.setdefault(identity, _text(raw, "title")) != _text(raw, "title")
    }


def _entry(raw: Any, ambiguous: set[str]) -> Entry | None:
    summary = _plain(_text(raw, "summary"), MAX_SUMMARY)
    own = _plain(_text(raw, "title"), MAX_TITLE)
    title = own or summary[:MAX_TITLE]  # posts of social networks have no title
    if not title:
        return None
    link = _text(raw, "link")
    stated = [_canonical(name) for name in (_text(raw, "id"), link) if name]
    identity = next((name for name in stated if name not in ambiguous), f"{title}\x1f{link}")
    words = title_key(own if stated else title)  # a summary changes, as counts of comments do
    published_raw, published = next(_dates(raw), ("", Moment(None)))
    source = raw.get("source")
    return Entry(
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
    """An address without its scheme's `http` and without what only counts readers: the same article again
    is no news.
    """
    if not name.startswith("http") or not _is_web(name):
        return name
    url = urlsplit(name)
    kept = [one for one in url.query.split("&") if not one.lower().startswith(_TRACKING)] if url.query else []
    return urlunsplit(("https", url.netloc, url.path, "&".join(kept), url.fragment))


def _hash(identity: str) -> str:
    return hashlib.blake2b(identity.encode(errors="replace"), digest_size=16).hexdigest()


def _plain(text: str, limit: int) -> str:
    return plain(mend_text(text[: 4 * limit]), limit)


def _text(raw: Any, name: str) -> str:
    value = raw.get(name)
    return value.strip() if isinstance(value, str) else ""


def _is_web(link: str) -> bool:
    try:
        url = urlsplit(link)
    except ValueError:  # a broken IPv6 host
        return False
    return url.scheme in ("http", "https") and bool(url.hostname)


def _dates(raw: Any) -> Iterator[tuple[str, Moment]]:
    """When it was published, as the feed states it and as it is read; the first date that can be read,
    else the first one.
    """
    stated = [
        (text, read_date(plain(text, MAX_LENGTH + 1)))
        for name in _DATES
        if (text := _text(raw, name) if name in raw else "")
    ]
    stated.sort(key=lambda date: date[1].at is None)
    yield from stated
