"""Feeds may connect to the public internet, and to private addresses only if the configuration names them."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.config.live import NewsConfig
from agent.live.news.destinations import AddressForbidden, DestinationPolicy
from agent.live.news.fetch import FeedResponse, fetch
from agent.system.addresses import address_of, is_public
from tests.support.feed_server import FeedServer, item, rss
from tests.support.producers import ManualClock

FEED = rss(item(1))
SECRET_PAGE = b"<html>the internal page</html>"
PUBLIC = "https://feeds.test/rss"

PRIVATE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fd00::1]",
    "[ff02::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fec0::1]",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_in_any_notation_is_refused(host: str) -> None:
    with pytest.raises(AddressForbidden, match="not on the public internet") as refused:
        DestinationPolicy(PUBLIC, ()).check(f"http://{host}/admin")
    assert "allow_private" in refused.value.hint


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "news.test", "[64:ff9b::808:808]"])
def test_a_public_address_and_any_name_pass_the_check_before_resolution(host: str) -> None:
    DestinationPolicy(PUBLIC, ()).check(f"http://{host}/feed")


@pytest.mark.parametrize(
    ("own", "where", "passes"),
    [
        ("http://127.0.0.1:8000/feed", "http://127.0.0.1:8000/other", True),
        ("http://127.0.0.1:8000/feed", "http://localhost:8000/other", True),
        ("http://localhost:8000/feed", "http://[::1]:8000/other", True),
        # another service of this machine
        ("http://127.0.0.1:8000/feed", "http://127.0.0.1:8610/admin", False),
        ("http://127.0.0.1:8000/feed", "http://localhost:8610/admin", False),
        ("http://127.0.0.1:8000/feed", "http://169.254.169.254:8000/", False),
        ("http://10.0.0.7/feed", "http://10.0.0.7/other", True),
        ("http://10.0.0.7/feed", "http://10.0.0.8/other", False),
        ("http://10.0.0.7/feed", "http://127.0.0.1/other", False),
    ],
)
def test_a_feed_configured_on_a_private_address_may_not_leave_it(own: str, where: str, passes: bool) -> None:
    access = DestinationPolicy(own, ())
    if passes:
        access.check(where)
    else:
        with pytest.raises(AddressForbidden):
            access.check(where)


@pytest.mark.parametrize("allowed", [("10.0.0.8",), ("10.0.0.0/24",), ("169.254.0.1", "10.0.0.0/8")])
def test_the_configuration_allows_addresses_and_networks(allowed: tuple[str, ...]) -> None:
    access = DestinationPolicy(PUBLIC, NewsConfig(allow_private=allowed).allow_private)
    access.check("http://10.0.0.8/feed")
    with pytest.raises(AddressForbidden):
        access.check("http://192.168.0.1/feed")


@pytest.mark.parametrize("wrong", ["http://10.0.0.1", "10.0.0.1:80", "10.0.0.0/99", "", "a b"])
def test_an_invalid_allow_private_entry_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="write an address"):
        NewsConfig(allow_private=(wrong,))


def test_is_public_accepts_public_addresses() -> None:
    assert is_public(address_of("1.1.1.1"))  # type: ignore[arg-type]
    assert address_of("feeds.test") is None


# -- while connecting ----------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Map of names to the addresses of successive lookups; the last repeats. Others resolve normally."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host in known:
            addresses = known[host]
            host = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


async def get(url: str, clock: ManualClock, own: str = "", allowed: tuple[str, ...] = ()) -> FeedResponse:
    config = NewsConfig(allow_private=allowed)
    access = DestinationPolicy(own or url, config.allow_private)
    async with access.session(config) as session:
        return await fetch(session, url, config, clock, access=access)


async def test_a_configured_address_on_loopback_is_read(feed_server: FeedServer, clock: ManualClock) -> None:
    feed_server.at("/moved", web.Response(status=302, headers={"Location": "/feed"}))
    feed_server.at("/feed", FEED)
    assert (await get(f"{feed_server.url}/moved", clock)).body == FEED
    assert (await get(f"{feed_server.url.replace('127.0.0.1', 'localhost')}/moved", clock)).body == FEED


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_local_service_is_not_followed(
    feed_server: FeedServer, clock: ManualClock, code: int
) -> None:
    requests = []

    async def internal(request: web.Request) -> web.Response:
        requests.append(request)
        return web.Response(body=SECRET_PAGE)

    runner = web.ServerRunner(web.Server(internal))  # type: ignore[arg-type]
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        url = feed_server.at(
            "/feed", web.Response(status=code, headers={"Location": f"http://127.0.0.1:{port}/admin"})
        )
        with pytest.raises(AddressForbidden):
            await get(url, clock)
    finally:
        await runner.cleanup()
    assert requests == []


async def test_a_name_that_resolves_to_a_private_address_is_refused(
    feed_server: FeedServer, clock: ManualClock, names: dict[str, list[str]]
) -> None:
    feed_server.at("/feed", SECRET_PAGE)
    names["rebound.test"] = ["127.0.0.1"]
    port = feed_server.url.rpartition(":")[2]
    with pytest.raises(
        aiohttp.ClientConnectorError, match=r"127\.0\.0\.1, which is not on the public internet"
    ):
        await get(f"http://rebound.test:{port}/feed", clock)
    assert feed_server.requests == []


async def test_a_name_allowed_by_the_configuration_may_be_private(
    feed_server: FeedServer, clock: ManualClock, names: dict[str, list[str]]
) -> None:
    feed_server.at("/feed", FEED)
    names["feeds.intranet"] = ["127.0.0.1"]
    port = feed_server.url.rpartition(":")[2]
    answer = await get(f"http://feeds.intranet:{port}/feed", clock, allowed=("feeds.intranet",))
    assert answer.body == FEED


async def test_each_connection_is_checked_and_not_only_the_first(
    feed_server: FeedServer, clock: ManualClock, names: dict[str, list[str]]
) -> None:
    """A name that resolved to a public address once may resolve to a private one later."""
    feed_server.at("/feed", FEED)
    names["feeds.test"] = ["203.0.113.1", "127.0.0.1"]  # DNS rebinding to this machine
    port = int(feed_server.url.rpartition(":")[2])
    access = DestinationPolicy("http://feeds.test/", ())
    for _ in range(2):
        with pytest.raises(OSError, match="not on the public internet"):
            await access.resolve("feeds.test", port)


async def test_a_proxy_may_be_private_and_addresses_behind_it_may_not(
    feed_server: FeedServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed_server.at("/feed", FEED)
    monkeypatch.setenv("http_proxy", feed_server.url)
    assert (await get("http://feeds.test/feed", clock)).body == FEED
    feed_server.at("/feed", web.Response(status=302, headers={"Location": "http://10.0.0.1/feed"}))
    with pytest.raises(AddressForbidden):
        await get("http://feeds.test/feed", clock)


async def test_a_hanging_name_lookup_delays_no_other(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    real = socket.getaddrinfo

    def hang(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "hangs.test":
            released.wait(60)
        return real("127.0.0.1" if host.endswith(".test") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    hanging = [DestinationPolicy("http://hangs.test/", ("hangs.test",)) for _ in range(12)]
    tasks = [asyncio.create_task(access.resolve("hangs.test", 80)) for access in hanging for _ in range(4)]
    found = await DestinationPolicy("http://good.test/", ("good.test",)).resolve("good.test", 80)
    assert found[0]["host"] == "127.0.0.1"
    with pytest.raises(OSError, match="still pending"):
        await hanging[0].resolve("hangs.test", 80)
    assert not any(task.done() for task in tasks)
    released.set()
    await asyncio.wait(tasks)
