"""Publishes the headlines of a news file as RSS and Atom, each from its publication time on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from aiohttp import web
from msgspec import structs

from agent.core.events import News
from agent.data.news import NewsFile
from agent.system.clock import iso

ALL: Final = "all"
"""The feed of every publisher."""
_ATOM: Final = "http://www.w3.org/2005/Atom"


def read_headlines(path: Path, shift: int) -> list[News]:
    """Read a file's headlines, sorted by publication time and shifted by `shift` ms. Raises DataError."""
    moved = (structs.replace(news, ts=news.ts + shift) for news in NewsFile(path, feed_delay=0))
    return sorted(moved, key=lambda news: (news.ts, news.id))


class NewsFeedServer:
    """Serves /feeds/NAME.rss and /feeds/NAME.atom.

    NAME is `all` or the slug of a publisher. `now` returns the market's time (UTC ms); a feed holds the
    newest `items` headlines.
    """

    def __init__(
        self, headlines: list[News], now: Callable[[], int], base_url: Callable[[], str], *, items: int
    ) -> None:
        self._now = now
        self._base_url = base_url
        self._items = items
        self._feeds: dict[str, list[News]] = {ALL: headlines}
        for headline in headlines:
            self._feeds.setdefault(slug(headline.publisher), []).append(headline)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._feeds)

    def respond(self, request: web.Request) -> web.Response:
        """Return a feed, 304 if the client's copy is current, or 404 if the feed does not exist."""
        name, kind = request.match_info["name"], request.match_info["kind"]
        feed = self._feeds.get(name)
        if feed is None:
            return web.Response(status=404, text=f"no feed {name}; feeds are {', '.join(self.names)}")
        now = self._now()
        visible = [headline for headline in feed if headline.ts <= now][-self._items :][::-1]
        body = (self._rss if kind == "rss" else self._atom)(name, visible)
        changed = (visible[0].ts if visible else now) // 1000
        headers = {
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:20]}"',
            "Last-Modified": formatdate(changed, usegmt=True),
        }
        if _is_current(request, headers["ETag"], changed):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=body, headers=headers, content_type=f"application/{kind}+xml", charset="utf-8"
        )

    def article(self, request: web.Request) -> web.Response:
        """Return the page that a feed item links to."""
        found = next(
            (h for h in self._feeds[ALL] if h.id == request.match_info["id"] and h.ts <= self._now()), None
        )
        if found is None:
            return web.Response(status=404, text="no such article")
        return web.Response(text=f"{found.title}\n\n{found.summary}\n")

    def _link(self, headline: News) -> str:
        return f"{self._base_url()}/articles/{headline.id}"

    def _rss(self, name: str, headlines: list[News]) -> bytes:
        root = ET.Element("rss", version="2.0")
        channel = ET.SubElement(root, "channel")
        for tag, value in (
            ("title", f"Sandbox: {name}"),
            ("link", self._base_url()),
            ("description", "Headlines of the sandbox's market"),
        ):
            ET.SubElement(channel, tag).text = value
        for headline in headlines:
            item = ET.SubElement(channel, "item")
            ET.SubElement(item, "title").text = headline.title
            ET.SubElement(item, "link").text = self._link(headline)
            ET.SubElement(item, "guid", isPermaLink="false").text = headline.id
            ET.SubElement(item, "pubDate").text = formatdate(headline.ts / 1000, usegmt=True)
            ET.SubElement(item, "description").text = headline.summary
            for currency in headline.currencies:
                ET.SubElement(item, "category").text = currency
        return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))

    def _atom(self, name: str, headlines: list[News]) -> bytes:
        root = ET.Element("feed", xmlns=_ATOM)
        ET.SubElement(root, "id").text = f"urn:sandbox:{name}"
        ET.SubElement(root, "title").text = f"Sandbox: {name}"
        ET.SubElement(root, "updated").text = iso(headlines[0].ts // 1000 * 1000) if headlines else iso(0)
        for headline in headlines:
            entry = ET.SubElement(root, "entry")
            ET.SubElement(entry, "id").text = f"urn:sandbox:{headline.id}"
            ET.SubElement(entry, "title").text = headline.title
            ET.SubElement(entry, "link", href=self._link(headline))
            for tag in ("published", "updated"):
                ET.SubElement(entry, tag).text = iso(headline.ts // 1000 * 1000)
            ET.SubElement(ET.SubElement(entry, "author"), "name").text = headline.publisher
            ET.SubElement(entry, "summary").text = headline.summary
            for currency in headline.currencies:
                ET.SubElement(entry, "category", term=currency)
        return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def slug(publisher: str) -> str:
    """Convert a publisher's name to lower case with dashes, as used in URLs."""
    return re.sub(r"[^a-z0-9]+", "-", publisher.lower()).strip("-") or "unknown"


def _is_current(request: web.Request, etag: str, changed: int) -> bool:
    """Return whether the client's copy is current. ETag takes precedence over the date (RFC 9110, 13.1.3)."""
    if tags := request.headers.get("If-None-Match"):
        return etag in {tag.strip().removeprefix("W/") for tag in tags.split(",")} or tags.strip() == "*"
    since = request.headers.get("If-Modified-Since")
    try:
        return since is not None and parsedate_to_datetime(since).timestamp() >= changed
    except ValueError:
        return False
