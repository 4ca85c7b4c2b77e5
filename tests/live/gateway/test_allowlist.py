"""Signed requests reach only the testnet, demo trading and this machine.

A listening socket stands for the real exchange, and DNS is patched so that every name resolves to it. Each
test starts a private request, or the private stream, with keys; the socket must not receive a byte.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from agent.config import load
from agent.config.execution import TestnetConfig
from agent.core.errors import ConfigError, SafetyError, VenueError
from agent.live.gateway import bybit_port
from agent.live.gateway.allowlist import ALLOWED, check, guarded_connect, guarded_session
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.credentials import Credentials
from agent.system.clock import WallClock
from agent.system.secret import Secret

KEYS = Credentials(Secret("the-api-key"), Secret("the-api-secret"))
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY", "SOCKS_PROXY")


class Mainnet:
    """A listening socket and what it received."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = b""
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.received += await reader.read(65_536)
        writer.close()


@pytest.fixture
async def mainnet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mainnet]:
    """A socket on loopback to which every name resolves, `api.bybit.com` included."""
    received = Mainnet()
    server = await asyncio.start_server(received.accept, "127.0.0.1", 0)
    received.port = server.sockets[0].getsockname()[1]
    resolve = socket.getaddrinfo

    def resolve_to_mainnet(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve("127.0.0.1", received.port if port == 443 else port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_to_mainnet)
    async with server:
        yield received


@pytest.fixture
async def venue() -> AsyncIterator[tuple[str, list[str]]]:
    """A server on loopback that responds to every request, and the requested paths."""
    paths: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.json_response({"retCode": 0, "retMsg": "OK", "result": {"list": []}, "time": 0})

    async for url in _serve(respond):
        yield url, paths


async def _serve(respond: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_an_unguarded_session_reaches_the_forbidden_host(mainnet: Mainnet) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(
                f"http://api.bybit.com:{mainnet.port}", headers={"X-BAPI-API-KEY": "the-api-key"}
            )
    assert mainnet.connections > 0
    assert b"the-api-key" in mainnet.received


def port_to(venue: str) -> BybitPort:
    return BybitPort(
        TestnetConfig(venue=venue, request_timeout="1s", open_timeout="1s"), "linear", KEYS, WallClock()
    )


async def attempt(port: BybitPort) -> BaseException | None:
    """Try signed requests and the private stream; return the first error."""
    failure = None
    for call in (
        port.positions,
        lambda: port.cancel_all("BTCUSDT"),
        lambda: port.stream(lambda message: None, lambda: None),
    ):
        try:
            await call()
        except (SafetyError, VenueError) as error:
            failure = failure or error
    await port.close()
    return failure


EVIL = (
    "http://api.bybit.com:{port}",
    "https://api.bybit.com",
    "https://api.bytick.com",
    "http://api-testnet.bybit.com:{port}",  # without TLS
    "https://api-testnet.bybit.com:{port}",  # another port
    "https://api-testnet.bybit.com.evil.example",
    "https://evil-api-testnet.bybit.com",
    "https://testnet.bybit.com",
    "https://api-testnet.bybit.com@api.bybit.com",
    "http://127.0.0.1:{port}@api.bybit.com:{port}",
    "http://user:pass@127.0.0.1:{port}",
    "http://api.bybit.com:{port}#@127.0.0.1",
    "http://api.bybit.com:{port}?@127.0.0.1",
    "http://api.bybit.com:{port}\\@127.0.0.1",
    "http://api.bybit.com:{port}/\t@127.0.0.1",
    "http://127.0.0.1:{port}\r\nHost: api.bybit.com",
    "http://127.0.0.1.evil.example:{port}",
    "http://localhost.evil.example:{port}",
    "http://2130706433:{port}",
    "http://127.1:{port}",
    "http://0.0.0.0:{port}",
    "http://[::ffff:10.0.0.1]:{port}",
    "https://api\u2010testnet.bybit.com",  # characters that look like hyphen, dot and "a"
    "https://api-testnet\uff0ebybit.com",
    "https://\u0430pi-testnet.bybit.com",
    "https://xn--pi-testnet-y2g.bybit.com",
    "https://api-testnet.bybit.com%2f.evil.example",
    "https://127.0.0.1:{port}",
    "ftp://127.0.0.1:{port}",
    "//api.bybit.com:{port}",
    "api.bybit.com:{port}",
    "",
)


@pytest.mark.parametrize("evil", EVIL)
async def test_no_forbidden_address_is_accepted(
    evil: str, mainnet: Mainnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = evil.format(port=mainnet.port)
    with pytest.raises(SafetyError, match="is refused"):
        check(url)
    with pytest.raises(ValueError, match="orders go to"):
        TestnetConfig(venue=url)
    with pytest.raises(SafetyError):  # a configuration that was never validated
        BybitPort(TestnetConfig.model_construct(venue=url), "linear", KEYS, WallClock())
    monkeypatch.setitem(
        bybit_port._BASES,  # type: ignore[arg-type]
        "testnet",
        (url, url.replace("http", "ws", 1)),
    )
    with pytest.raises(SafetyError):
        port_to("testnet")
    if "user:pass" not in url:  # aiohttp removes the password, and the rest is this machine
        async with guarded_session() as session:
            with pytest.raises((SafetyError, ValueError, aiohttp.ClientError)):
                await session.get(URL(url, encoded=True), headers={"X-BAPI-API-KEY": "k"})
    with pytest.raises(SafetyError):
        await guarded_connect(url.replace("http", "ws", 1) or "ws:", open_timeout=1.0)
    assert (mainnet.connections, mainnet.received) == (0, b"")


@pytest.mark.parametrize("evil", EVIL)
async def test_an_address_changed_after_construction_is_refused(
    evil: str, mainnet: Mainnet, venue: tuple[str, list[str]]
) -> None:
    url = evil.format(port=mainnet.port)
    port = port_to(venue[0])
    port._signer.urls["api"] = {"public": url or "/", "private": url or "/"}
    port._stream_url = url.replace("http", "ws", 1)
    assert isinstance(await attempt(port), SafetyError)
    assert (mainnet.connections, mainnet.received, venue[1]) == (0, b"", [])


@pytest.mark.parametrize(
    "file",
    [
        '[execution]\nmode = "testnet"\n[execution.testnet]\nvenue = "mainnet"',
        '[execution]\nmode = "testnet"\n[execution.testnet]\nvenue = "https://api.bybit.com"',
        '[execution]\nmode = "mainnet"',
        '[execution.testnet]\nhost = "api.bybit.com"',
    ],
)
def test_no_configuration_file_allows_another_host(file: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(file)
    with pytest.raises(ConfigError):
        load(tmp_path / "config.toml")


async def test_proxies_of_the_environment_are_not_used(
    mainnet: Mainnet, venue: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        for spelling in (name, name.lower()):
            monkeypatch.setenv(spelling, f"http://127.0.0.1:{mainnet.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert isinstance(
        await attempt(port_to(venue[0])), VenueError
    )  # only the stream fails: the server has none
    assert venue[1] == [
        "/v5/position/list",
        "/v5/order/cancel-all",
        "/v5/position/trading-stop",
        "/v5/private",
    ]
    assert mainnet.connections == 0


@pytest.mark.parametrize(
    "option",
    ["httpProxy", "httpsProxy", "socksProxy", "wsProxy", "wssProxy", "proxyUrl", "aiohttp_proxy", "hostname"],
)
async def test_options_of_ccxt_lead_to_no_other_host(
    option: str, mainnet: Mainnet, venue: tuple[str, list[str]]
) -> None:
    port = port_to(venue[0])
    setattr(
        port._signer, option, "api.bybit.com" if option == "hostname" else f"http://127.0.0.1:{mainnet.port}/"
    )
    port._signer.aiohttp_trust_env = True
    await attempt(port)
    assert mainnet.connections == 0
    assert venue[1][:2] == ["/v5/position/list", "/v5/order/cancel-all"]


@pytest.mark.parametrize("mode", ["set_sandbox_mode", "enable_demo_trading"])
async def test_modes_of_ccxt_lead_to_no_other_host(
    mode: str, mainnet: Mainnet, venue: tuple[str, list[str]]
) -> None:
    port = port_to(venue[0])
    for on in (True, False):
        getattr(port._signer, mode)(on)
    await attempt(port)
    assert b"the-api-key" not in mainnet.received
    assert b"BAPI" not in mainnet.received


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://api.bybit.com:{port}/", "http://127.0.0.1:{port}/"])
async def test_a_redirect_is_not_followed(status: int, target: str, mainnet: Mainnet) -> None:
    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": target.format(port=mainnet.port)})

    async for url in _serve(redirect):
        assert isinstance(await attempt(port_to(url)), VenueError)
        async with guarded_session() as session:  # a redirect that is followed ends at the connector
            if "api.bybit.com" in target:
                with pytest.raises(SafetyError):
                    await session.get(url, headers={"X-BAPI-API-KEY": "k"})
    assert mainnet.connections == 0


async def test_a_request_with_a_proxy_another_host_or_an_unchecked_certificate_is_refused(
    mainnet: Mainnet, venue: tuple[str, list[str]]
) -> None:
    async with guarded_session() as session:
        for options in (
            {"proxy": f"http://127.0.0.1:{mainnet.port}"},
            {"headers": {"Host": "api.bybit.com"}},
            {"headers": {"host": f"127.0.0.1:{mainnet.port}"}},
            {"ssl": False},
            {"server_hostname": "api.bybit.com"},
        ):
            with pytest.raises(SafetyError):
                await session.get(venue[0], **options)  # type: ignore[arg-type]
    assert (mainnet.connections, venue[1]) == (0, [])


async def test_localhost_is_not_resolved_by_dns(
    venue: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[Any] = []
    resolve = socket.getaddrinfo

    def elsewhere(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        resolved.append(host)
        return resolve("192.0.2.1" if host == "localhost" else host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", elsewhere)
    await attempt(port_to(venue[0].replace("127.0.0.1", "localhost")))
    assert venue[1][:2] == ["/v5/position/list", "/v5/order/cancel-all"]
    assert "localhost" not in resolved


@pytest.mark.parametrize("name", ["testnet", "demo"])
async def test_a_lying_dns_server_gets_a_tls_handshake_and_no_request(name: str, mainnet: Mainnet) -> None:
    assert isinstance(await attempt(port_to(name)), VenueError)
    # TLS ClientHello; without a certificate of that name nothing follows
    assert mainnet.received.startswith(b"\x16\x03")
    assert b"the-api-key" not in mainnet.received
    assert b"v5/" not in mainnet.received


def test_the_allowlist_is_exactly_this() -> None:
    hosts = "api-testnet.bybit.com stream-testnet.bybit.com api-demo.bybit.com stream-demo.bybit.com"
    assert {host for _, host in ALLOWED} == set(hosts.split())
    for scheme, host in ALLOWED:
        assert check(f"{scheme}://{host}/v5/order/create") == f"{scheme}://{host}/v5/order/create"
    assert check("http://localhost:8600/x") == "http://127.0.0.1:8600/x"
    assert check("ws://[::1]:8600/x") == "ws://[::1]:8600/x"
