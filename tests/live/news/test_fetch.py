"""HTTP GET of a feed: request headers, accepted responses and rejected ones."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.config.live import NewsConfig
from agent.live.news.fetch import FeedResponse, FetchError, fetch
from tests.support.feed_server import FeedServer, conditional, item, rss
from tests.support.producers import T0, ManualClock

FEED = rss(item(1), item(2))
LIMIT = 10_000


@pytest.fixture
async def get(clock: ManualClock) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def run(url: str, **validators: str) -> FeedResponse:
            return await fetch(
                session, url, NewsConfig(max_bytes=LIMIT, max_redirects=3), clock, **validators
            )

        yield run


async def test_a_response_has_body_and_validators(get: Any, feed_server: FeedServer) -> None:
    url = feed_server.at(
        "/feed", conditional(FEED, etag='"7"', last_modified="Sat, 26 Sep 2026 10:00:00 GMT")
    )
    answer = await get(url)
    assert (answer.status, answer.url, answer.body, answer.received) == (200, url, FEED, len(FEED))
    assert (answer.etag, answer.last_modified) == ('"7"', "Sat, 26 Sep 2026 10:00:00 GMT")


async def test_an_unchanged_document_is_not_downloaded_again(get: Any, feed_server: FeedServer) -> None:
    url = feed_server.at(
        "/feed", conditional(FEED, etag='"7"', last_modified="Sat, 26 Sep 2026 10:00:00 GMT")
    )
    answer = await get(url, etag='"7"', last_modified="Sat, 26 Sep 2026 10:00:00 GMT")
    assert (answer.status, answer.body) == (304, None)


async def test_a_request_has_user_agent_and_accept_headers(get: Any, feed_server: FeedServer) -> None:
    await get(feed_server.at("/feed", FEED))
    headers = feed_server.requests[0].headers
    assert headers["User-Agent"].startswith("tapewire")
    assert headers["Accept-Encoding"] == "gzip, deflate"
    assert "application/rss+xml" in headers["Accept"]
    assert "If-None-Match" not in headers


RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
PACKED = {
    "gzip": gzip.compress(FEED),
    "x-gzip": gzip.compress(FEED),
    "deflate": zlib.compress(FEED),
    "deflate without its header": RAW.compress(FEED) + RAW.flush(),
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_compressed_documents_are_decompressed(
    get: Any, feed_server: FeedServer, encoding: str
) -> None:
    reply = web.Response(body=PACKED[encoding], headers={"Content-Encoding": encoding.split()[0]})
    answer = await get(feed_server.at("/feed", reply))
    assert (answer.body, answer.received) == (FEED, len(PACKED[encoding]))


def in_pieces(request: web.Request) -> Any:
    """A chunked response larger than the limit, without Content-Length."""

    async def stream() -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(LIMIT // 1_000 + 1):
            await response.write(b" " * 1_000)
        return response

    return stream()


def packed(body: bytes, encoding: str = "gzip") -> web.Response:
    return web.Response(body=body, headers={"Content-Encoding": encoding})


BOMB = gzip.compress(b" " * 50_000_000)
REFUSED = {
    "too large": (web.Response(body=b" " * (LIMIT + 1)), f"larger than {LIMIT} bytes"),
    "too large, in pieces": (in_pieces, f"larger than {LIMIT} bytes"),
    "a bomb": (packed(BOMB[: LIMIT - 1]), f"larger than {LIMIT} bytes"),
    "cut off": (packed(gzip.compress(FEED)[:-12]), "cut off"),
    "damaged": (packed(b"\x1f\x8b\x08" + b"\xff" * 50), "damaged"),
    "not compressed at all": (packed(FEED), "damaged"),
    "compressed in another way": (packed(b"?", "br"), "compressed as 'br'"),
    "an error": (web.Response(status=500), "HTTP 500 Internal Server Error"),
    "not there": (web.Response(status=404), "HTTP 404 Not Found"),
    "gone": (web.Response(status=410), "HTTP 410 Gone"),
    "empty-handed": (web.Response(status=204), "HTTP 204 No Content"),
    "to a file": (web.Response(status=302, headers={"Location": "file:///etc/passwd"}), "not an http.s. URL"),
    "to a script": (
        web.Response(status=302, headers={"Location": "javascript:alert(1)"}),
        "not an http.s. URL",
    ),
    "to a broken host": (web.Response(status=302, headers={"Location": "http://[::1"}), "not an http.s. URL"),
    "to FTP": (web.Response(status=301, headers={"Location": "ftp://news.test/feed"}), "not an http.s. URL"),
    "to itself": (web.Response(status=302, headers={"Location": "/feed"}), "more than 3 redirects"),
    "to nowhere": (web.Response(status=302), "more than 3 redirects"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_invalid_responses_are_refused(get: Any, feed_server: FeedServer, name: str) -> None:
    reply, reason = REFUSED[name]
    with pytest.raises(FetchError, match=reason):
        await get(feed_server.at("/feed", reply))


def to(path: str, status: int) -> web.Response:
    return web.Response(status=status, headers={"Location": path})


@pytest.mark.parametrize(
    ("hops", "moved_to"),
    [
        ([301], "/1"),
        ([308, 301], "/2"),
        ([302], ""),
        ([307, 301], ""),  # a temporary redirect may change its target
        ([301, 302], "/1"),
    ],
)
async def test_redirects_are_followed_and_permanent_ones_reported(
    get: Any, feed_server: FeedServer, hops: list[int], moved_to: str
) -> None:
    for number, status in enumerate(hops):
        feed_server.at(f"/{number}", to(f"/{number + 1}", status))
    feed_server.at(f"/{len(hops)}", FEED)
    answer = await get(f"{feed_server.url}/0")
    assert answer.body == FEED
    assert answer.url == f"{feed_server.url}/{len(hops)}"
    assert answer.moved_to == (moved_to and feed_server.url + moved_to)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "Sat, 26 Sep 2026 10:02:00 GMT", "Date": "Sat, 26 Sep 2026 10:00:00 GMT"}, 120),
        ({"Retry-After": "Sat, 26 Sep 2026 09:00:00 GMT", "Date": "Sat, 26 Sep 2026 10:00:00 GMT"}, 0),
        ({"Retry-After": "99999999999999"}, 86_400),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({}, 0),
    ],
)
async def test_retry_after_sets_the_waiting_time(
    get: Any, feed_server: FeedServer, headers: dict[str, str], seconds: float
) -> None:
    with pytest.raises(FetchError) as raised:
        await get(feed_server.at("/feed", web.Response(status=503, headers=headers)))
    assert (raised.value.status, raised.value.retry_after) == (503, seconds)


async def test_a_retry_date_without_a_server_date_is_compared_with_the_local_clock(
    get: Any, feed_server: FeedServer, clock: ManualClock
) -> None:
    assert clock.time == T0  # 2026-09-26T08:00:00Z
    reply = web.Response(
        status=429, headers={"Retry-After": "Sat, 26 Sep 2026 08:01:00 GMT", "Date": "today"}
    )
    with pytest.raises(FetchError) as raised:
        await get(feed_server.at("/feed", reply))
    assert raised.value.retry_after == 60


async def test_a_response_that_never_ends_times_out(feed_server: FeedServer, clock: ManualClock) -> None:
    released = asyncio.Event()

    def stall(request: web.Request) -> Any:
        async def stream() -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"<?xml")
            await released.wait()
            return response

        return stream()

    async with aiohttp.ClientSession(auto_decompress=False) as session:
        with pytest.raises(TimeoutError):
            await fetch(session, feed_server.at("/feed", stall), NewsConfig(total_timeout=50), clock)
    released.set()


@pytest.mark.parametrize("encoding", ["none", "", "utf-8", "aws-chunked", "binary", "identity", None])
async def test_content_encodings_without_compression_are_ignored(
    get: Any, feed_server: FeedServer, encoding: str | None
) -> None:
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    for path, body in (("/plain", FEED), ("/packed", gzip.compress(FEED[:99]) + gzip.compress(FEED[99:]))):
        answer = await get(feed_server.at(path, web.Response(body=body, headers=headers)))
        assert (answer.body, answer.received) == (FEED, len(body))
