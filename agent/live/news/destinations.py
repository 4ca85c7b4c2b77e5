"""Allowed destinations of feed requests: the public internet, and private addresses that the configuration
allows.

A feed's server controls its redirects and its DNS records, so each address is checked when a connection is
made. A proxy set by the environment resolves names itself; then only literal addresses can be checked here.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from contextlib import suppress
from ipaddress import IPv4Address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.config.live import NewsConfig
from agent.core.errors import SafetyError
from agent.system.addresses import Address, address_of, is_local_name, is_loopback, is_public

_PORTS: Final = {"http": 80, "https": 443}
_MAX_LOOKUPS: Final = 4  # of one feed at a time; more mean that the resolver doesn't respond
_UNSPECIFIED: Final = IPv4Address(0)


class AddressForbidden(SafetyError):
    """A request of a feed would go to an address that isn't allowed."""


class DestinationPolicy(AbstractResolver):
    """Policy and resolver for one feed: `url` is the configured one, `allowed` is `news.allow_private`.

    Each name is looked up in a thread of its own, so that a resolver that hangs delays nothing else.
    """

    def __init__(self, url: str, allowed: tuple[str, ...]) -> None:
        self._proxied = not is_loopback(url)  # the environment's proxies apply to remote hosts only
        host, self._port = _host_and_port(url)
        self._own = address_of(host)
        self._local = is_local_name(host) or (self._own is not None and self._own.is_loopback)
        self._networks = [ip_network(entry) for entry in allowed if "/" in entry]
        self._names = {entry for entry in allowed if "/" not in entry}
        self._allowed_addresses: set[tuple[Address, int]] = set()  # resolved addresses of allowed names
        self._proxies = _proxies() if self._proxied else set()
        self._lookups = 0

    def session(self, config: NewsConfig) -> aiohttp.ClientSession:
        """Return a session that connects only to allowed addresses; `fetch` limits the time of a request."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout / 1000)
        connector = aiohttp.TCPConnector(resolver=self, socket_factory=self._open)
        return aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, trust_env=self._proxied, connector=connector
        )

    def check(self, url: str) -> None:
        """Raise AddressForbidden if the host of `url` is a forbidden address or a name of this machine."""
        host, port = _host_and_port(url)
        if is_local_name(host) and host not in self._names and not (self._local and port == self._port):
            raise _forbidden(host)
        address = address_of(host)
        if address is not None:
            self._check(address, port)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`. Raises OSError without one."""
        infos = await self._look_up(host, port, family)
        exempt = host.lower() in self._names or (host.lower(), port) in self._proxies
        results: list[ResolveResult] = []
        forbidden = None
        for kind, _, protocol, _, place in infos:
            address = address_of(str(place[0]))
            if address is None:
                continue
            if exempt:
                self._allowed_addresses.add((address, port))
            try:
                self._check(address, port)
            except AddressForbidden as error:
                forbidden = OSError(errno.EACCES, f"{error.message}; {error.hint}")
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(place[0]),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if not results:
            raise forbidden or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
        return results

    async def close(self) -> None:
        pass

    def _check(self, address: Address, port: int) -> None:
        own = address == self._own or (self._local and address.is_loopback)
        if not (
            is_public(address)
            or (own and port == self._port)
            or (address, port) in self._allowed_addresses
            or any(address in network for network in self._networks)
        ):
            raise _forbidden(str(address))

    def _open(self, info: Any) -> socket.socket:
        """Check the destination once more and create the socket of a connection."""
        family, kind, protocol, _, place = info
        address = address_of(str(place[0]))
        if (str(place[0]), place[1]) not in self._proxies:
            try:
                self._check(address or _UNSPECIFIED, int(place[1]))
            except AddressForbidden as error:
                raise OSError(errno.EACCES, f"{error.message}; {error.hint}") from None
        return socket.socket(family, kind, protocol)

    async def _look_up(self, host: str, port: int, family: int) -> list[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        if self._lookups >= _MAX_LOOKUPS:
            raise OSError(errno.EAGAIN, f"{_MAX_LOOKUPS} earlier name lookups of this feed are still pending")

        def settle(result: list[Any] | OSError) -> None:
            self._lookups -= 1
            if future.done():
                return
            if isinstance(result, OSError):
                future.set_exception(result)
            else:
                future.set_result(result)

        def work() -> None:
            result: list[Any] | OSError
            try:
                result = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            except OSError as error:
                result = error
            except UnicodeError:
                result = OSError(errno.EINVAL, "not a valid host name")
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result)

        self._lookups += 1
        # A daemon thread: it may hang, and must not delay the exit
        threading.Thread(target=work, name="feed-lookup", daemon=True).start()
        return await future


def _host_and_port(url: str) -> tuple[str, int]:
    """Return host, in lower case, and port."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return (parts.hostname or "").rstrip("."), port or _PORTS.get(parts.scheme, 0)


def _proxies() -> set[tuple[str, int]]:
    found = getproxies()
    return {_host_and_port(found[scheme]) for scheme in ("http", "https", "all") if scheme in found}


def _forbidden(where: str) -> AddressForbidden:
    return AddressForbidden(
        f"the feed leads to {where}, which is not on the public internet",
        hint=f'to allow it, set allow_private = ["{where}"] in [news]',
    )
