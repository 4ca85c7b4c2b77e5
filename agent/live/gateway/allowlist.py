"""The hosts that signed requests may reach: Bybit's testnet, its demo trading, and this machine.

The list is code, so no configuration extends it. It is enforced at the connection of every private request
and of the private stream, so no proxy, redirect, `Host` header, malformed URL or DNS alias leads elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import ResolveResult
from websockets.asyncio.client import ClientConnection, connect

from agent.core.errors import SafetyError
from agent.system.addresses import is_loopback
from agent.system.http_timeouts import NO_TOTAL

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

ALLOWED: Final = frozenset(
    {
        ("https", "api-testnet.bybit.com"),
        ("wss", "stream-testnet.bybit.com"),
        ("https", "api-demo.bybit.com"),
        ("wss", "stream-demo.bybit.com"),
    }
)
"""Scheme and host; the port is 443.

In addition, plain http and ws to any port of this machine are allowed.
"""

_HINT: Final = (
    "orders go to the testnet, to demo trading or to a sandbox of this machine; nothing can change that"
)
_LOCAL: Final = "127.0.0.1"


def check(url: str) -> str:
    """Return the URL, with `localhost` replaced by its address so that DNS is not used.

    Raises SafetyError for other hosts.
    """
    if any(ord(letter) <= 32 or ord(letter) > 126 or letter == "\\" for letter in url):
        raise _refusal(url)  # parsers disagree on what such a URL means
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _refusal(url) from None
    if "@" in parts.netloc:
        raise _refusal(url)
    if (parts.scheme, host) in ALLOWED and port in (None, 443):
        return url
    if parts.scheme in ("http", "ws") and is_loopback(url):
        return parts._replace(netloc=parts.netloc.lower().replace("localhost", _LOCAL)).geturl()
    raise _refusal(url)


def _refusal(url: str) -> SafetyError:
    parts = url.partition("?")[0].rpartition("@")[2]  # neither a query nor a password belongs in a message
    return SafetyError(f"a private request to {parts!r} is refused", hint=_HINT)


class GuardedConnector(aiohttp.TCPConnector):
    """Connects to allowed hosts only, without proxies, and remotely only with a verified certificate."""

    def __init__(self) -> None:
        super().__init__(ssl=ssl.create_default_context(), use_dns_cache=False)

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Connect. Raises SafetyError before anything is sent."""
        url = str(req.url)
        check(url)
        if req.proxy is not None:
            raise SafetyError("a private request through a proxy is refused", hint=_HINT)
        if req.ssl is not True or req.server_hostname not in (None, req.url.host):
            raise SafetyError("a private request without a check of the certificate is refused", hint=_HINT)
        authority = req.url.raw_authority
        host = req.headers.get("Host", authority)
        if host.removesuffix(":443") != authority.removesuffix(":443"):
            raise SafetyError(f"a private request for the host {host!r} is refused", hint=_HINT)
        return await super().connect(req, traces, timeout)

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
        host = _LOCAL if host == "localhost" else host  # whatever DNS returns for it
        found: list[ResolveResult] = await super()._resolve_host(host, port, traces)
        return found


def guarded_session() -> aiohttp.ClientSession:
    """Open a session for private requests, without proxies and cookies.

    Pass `allow_redirects=False` with each request, and limit its time by `asyncio.timeout`.
    """
    return aiohttp.ClientSession(
        connector=GuardedConnector(), timeout=NO_TOTAL, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
    )


async def guarded_connect(url: str, *, open_timeout: float, **options: Any) -> ClientConnection:
    """Connect like `websockets.connect`, but only to allowed hosts, without proxy and redirects.

    `open_timeout` is in seconds. Raises SafetyError and the errors of `websockets.connect`.
    """
    url = check(url)
    parts = urlsplit(url)
    async with asyncio.timeout(open_timeout):
        opened = await _dial(parts.hostname or "", parts.port or 443)
    try:
        return await connect(url, sock=opened, proxy=None, open_timeout=open_timeout, **options)
    except BaseException:
        opened.close()
        raise


async def _dial(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            failure = error
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise failure
