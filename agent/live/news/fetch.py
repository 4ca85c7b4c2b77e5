"""HTTP GET of a feed: conditional, http(s) only, with bounds on time, size and redirects."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp

from agent.config.live import NewsConfig
from agent.core.errors import DataError, VenueError
from agent.data.text import one_line
from agent.live.news.decompression import decompress
from agent.live.news.destinations import DestinationPolicy
from agent.system.clock import Clock

_ACCEPT: Final = (
    "application/atom+xml, application/rss+xml, application/rdf+xml, application/xml;q=0.9, text/xml;q=0.8, "
    "application/feed+json;q=0.7, application/json;q=0.6, */*;q=0.1"
)
_PERMANENT: Final = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.PERMANENT_REDIRECT)
_REDIRECTS: Final = (*_PERMANENT, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER, HTTPStatus.TEMPORARY_REDIRECT)
_LONGEST_REASON: Final = 100  # characters


class FetchError(VenueError):
    """The feed could not be fetched. `status` is the HTTP status, or 0; `retry_after` is in seconds."""

    def __init__(self, message: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class FeedResponse(NamedTuple):
    """A successful response; `body` is None if the document is unchanged."""

    status: int
    url: str  # after redirects
    body: bytes | None
    received: int = 0  # bytes of the body before decompression
    content_type: str = ""
    etag: str = ""
    last_modified: str = ""
    moved_to: str = ""  # target of permanent redirects


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    config: NewsConfig,
    clock: Clock,
    *,
    etag: str = "",
    last_modified: str = "",
    access: DestinationPolicy | None = None,
) -> FeedResponse:
    """GET `url` unless it is unchanged since `etag` and `last_modified`.

    `session` must not decompress; `config.total_timeout` limits each request; `access` checks the URL and
    each redirect. Raises FetchError or AddressForbidden, and aiohttp.ClientError or TimeoutError if the
    connection fails.
    """
    headers = {"Accept": _ACCEPT, "Accept-Encoding": "gzip, deflate", "User-Agent": config.user_agent}
    headers |= {"If-None-Match": etag} if etag else {}
    headers |= {"If-Modified-Since": last_modified} if last_modified else {}
    moved_to, for_good = "", True
    for _ in range(config.max_redirects + 1):
        if access is not None:
            access.check(url)
        async with (
            asyncio.timeout(config.total_timeout / 1000),
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            status = response.status
            if status in _REDIRECTS:
                url = _next_hop(url, response)
                for_good = for_good and status in _PERMANENT
                moved_to = url if for_good else moved_to
                continue
            if status == HTTPStatus.NOT_MODIFIED:
                return FeedResponse(status, url, None, moved_to=moved_to)
            if status != HTTPStatus.OK:
                reason = f"HTTP {status} {one_line(response.reason or '', _LONGEST_REASON)}".rstrip()
                raise FetchError(reason, status=status, retry_after=_retry_after(response, config, clock))
            body, received = await _read(response, config.max_bytes)
            return FeedResponse(
                status,
                url,
                body,
                received,
                response.headers.get("Content-Type", ""),
                response.headers.get("ETag", ""),
                response.headers.get("Last-Modified", ""),
                moved_to,
            )
    raise FetchError(f"more than {config.max_redirects} redirects")


def _next_hop(url: str, response: aiohttp.ClientResponse) -> str:
    location = response.headers.get("Location", "")
    with suppress(ValueError):  # an invalid address in brackets
        target = urljoin(url, location)
        if urlsplit(target).scheme in ("http", "https") and urlsplit(target).hostname:
            return target
    raise FetchError(f"redirected to {location[:200]!r}, which is not an http(s) URL", status=response.status)


def _retry_after(response: aiohttp.ClientResponse, config: NewsConfig, clock: Clock) -> float:
    """Return the seconds of Retry-After, a number or an HTTP date, limited by the configuration; 0 if
    invalid.
    """
    value = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if value.isdigit() else _http_date(value) - _sent_at(response, clock)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), config.max_retry_after / 1000)


def _sent_at(response: aiohttp.ClientResponse, clock: Clock) -> float:
    """Return the time by the server's clock, so that a clock difference doesn't matter, else by this
    machine's.
    """
    try:
        return _http_date(response.headers.get("Date", ""))
    except ValueError:
        return clock.now() / 1000


def _http_date(value: str) -> float:
    moment = parsedate_to_datetime(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, int]:
    """Return the decompressed body and the number of bytes received; `limit` applies to both."""
    packed = bytearray()
    async for chunk in response.content.iter_any():
        packed += chunk
        if len(packed) > limit:
            raise FetchError(f"larger than {limit} bytes", status=response.status)
    encoding = ",".join(response.headers.getall("Content-Encoding", []))
    try:
        return decompress(bytes(packed), encoding, limit), len(packed)
    except DataError as error:
        raise FetchError(error.message, status=response.status) from None
