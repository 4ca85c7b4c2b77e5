"""Destinations allowed for the requests of a feed: the public internet, and private addresses only if the
configuration names them.

A feed's server controls its redirects and what its name resolves to, so the rule is applied to each address
when a connection is made. If the environment sets a proxy, the proxy resolves names: then only literal
addresses are checked here.
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
_LOOKUPS: Final = 4  # of one feed at a time; more means that the resolver doesn't respond

_NOWHERE: Final = IPv4Address(0)


class AddressRefused(SafetyError):
    """A URL of a feed leads to an address that the configuration doesn't allow."""


class FeedAccess(AbstractResolver):
    """The rule for one feed, and its resolver: `url` as configured, `allowed` is `news.allow_private`.

    Each name is looked up in its own thread, so that no other blocking call can delay it and it delays no
    other.
    """

    def __init__(self, url: str, allowed: tuple[str, ...]) -> None:
        self._proxied = not is_loopback(url)  # proxies of the environment apply to remote hosts only
        host, self._port = _place(url)
        self._own = address_of(host)
        self._local = is_local_name(host) or (self._own is not None and self._own.is_loopback)
        self._networks = [ip_network(entry) for entry in allowed if "/" in entry]
        self._names = {entry for entry in allowed if "/" not in entry}
        self._found: set[tuple[Address, int]] = set()  # of names that are allowed, as they were resolved
        self._proxies = _proxies() if self._proxied else set()
        self._lookups = 0

    def session(self, config: NewsConfig) -> aiohttp.ClientSession:
        """A session that connects only to allowed addresses."""
        timeout = aiohttp.ClientTimeout(
            total=config.total_timeout / 1000, sock_connect=config.connect_timeout / 1000
        )
        connector = aiohttp.TCPConnector(resolver=self, socket_factory=self._open)
        return aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, trust_env=self._proxied, connector=connector
        )

    def check(self, url: str) -> None:
        """Raise AddressRefused if the host of `url` is an address that isn't allowed, or a name of this
        machine.
        """
        host, port = _place(url)
        if is_local_name(host) and host not in self._names and not (self._local and port == self._port):
            raise _refused(host)
        address = address_of(host)
        if address is not None:
            self._check(address, port)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses of `host`. Raises OSError without one."""
        infos = await self._look_up(host, port, family)
        exempt = host.lower() in self._names or (host.lower(), port) in self._proxies
        results: list[ResolveResult] = []
        refused = None
        for kind, _, protocol, _, place in infos:
            address = address_of(str(place[0]))
            if address is None:
                continue
            if exempt:
                self._found.add((address, port))
            try:
                self._check(address, port)
            except AddressRefused as error:
                refused = OSError(errno.EACCES, f"{error.message}; {error.hint}")
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
            raise refused or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
        return results

    async def close(self) -> None:
        """Do nothing: the resolver holds no resources."""

    def _check(self, address: Address, port: int) -> None:
        mine = address == self._own or (self._local and address.is_loopback)
        if not (
            is_public(address)
            or (mine and port == self._port)
            or (address, port) in self._found
            or any(address in network for network in self._networks)
        ):
            raise _refused(str(address))

    def _open(self, info: Any) -> socket.socket:
        """Create the socket of a connection: the last check of its destination."""
        family, kind, protocol, _, place = info
        address = address_of(str(place[0]))
        if (str(place[0]), place[1]) not in self._proxies:
            try:
                self._check(address or _NOWHERE, int(place[1]))
            except AddressRefused as error:
                raise OSError(errno.EACCES, f"{error.message}; {error.hint}") from None
        return socket.socket(family, kind, protocol)

    async def _look_up(self, host: str, port: int, family: int) -> list[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        if self._lookups >= _LOOKUPS:
            raise OSError(errno.EAGAIN, f"{_LOOKUPS} earlier questions for a name were not answered")

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
                result = OSError(errno.EINVAL, "no name of a host")
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result)

        self._lookups += 1
        threading.Thread(
            target=work, name="feed-lookup", daemon=True
        ).start()  # a daemon: it may hang, and must not delay the exit
        return await future


def _place(url: str) -> tuple[str, int]:
    """Host in lower case, and port."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return (parts.hostname or "").rstrip("."), port or _PORTS.get(parts.scheme, 0)


def _proxies() -> set[tuple[str, int]]:
    found = getproxies()
    return {_place(found[scheme]) for scheme in ("http", "https", "all") if scheme in found}


def _refused(where: str) -> AddressRefused:
    return AddressRefused(
        f"the feed leads to {where}, which is not on the public internet",
        hint=f'if it may, write allow_private = ["{where}"] in [news]',
    )
