"""Feed documents and a server for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

Reply = Callable[[web.Request], Any]


def item(number: int, *, published: int | None = None, **other: str) -> str:
    """An RSS item; `published` is in UTC ms."""
    parts = {
        "title": f"Miners sell {number} coins",
        "link": f"https://news.test/{number}",
        "guid": f"id-{number}",
    }
    if published is not None:
        parts["pubDate"] = formatdate(published / 1000, usegmt=True)
    return "".join(
        [
            "<item>",
            *(f"<{name}>{escape(text)}</{name}>" for name, text in (parts | other).items() if text),
            "</item>",
        ]
    )


def rss(*items: str, title: str = "The Test Wire") -> bytes:
    """An RSS 2.0 document."""
    return (
        '<?xml version="1.0"?><rss version="2.0"><channel>'
        f"<title>{title}</title>{''.join(items)}</channel></rss>"
    ).encode()


class FeedServer:
    """Serves each path's replies in turn; the last one repeats."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[web.Request] = []
        self.url = ""

    def at(self, path: str, *replies: bytes | web.Response | Reply) -> str:
        """Serve these replies at `path` and return its URL."""
        self.replies[path] = [reply if callable(reply) else _fixed(reply) for reply in replies]
        return f"{self.url}{path}"

    def asked(self, path: str) -> int:
        """Return the number of requests for a path."""
        return sum(request.path == path for request in self.requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        replies = self.replies[request.path]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        response = reply(request)
        return response if isinstance(response, web.StreamResponse) else await response


def _fixed(reply: bytes | web.Response) -> Reply:
    def answer(_: web.Request) -> web.Response:
        if isinstance(reply, bytes):
            return web.Response(body=reply, content_type="application/rss+xml")
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    return answer


def conditional(body: bytes, *, etag: str = "", last_modified: str = "") -> Reply:
    """Return a reply that is 304 if the request has matching validators."""
    headers = ({"ETag": etag} if etag else {}) | ({"Last-Modified": last_modified} if last_modified else {})

    def answer(request: web.Request) -> web.Response:
        known = (request.headers.get("If-None-Match", ""), request.headers.get("If-Modified-Since", "")) == (
            etag,
            last_modified,
        )
        return (
            web.Response(status=304, headers=headers) if known else web.Response(body=body, headers=headers)
        )

    return answer


def numbers(titles: list[str]) -> Iterator[int]:
    """Return the numbers in `item` titles."""
    return (int(title.split()[2]) for title in titles)


def endless() -> bytes:
    """Return a document within all limits that takes feedparser hours: it searches for an e-mail address."""
    return rss(item(1, author="a" * 1_500_000))
