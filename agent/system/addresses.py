"""Classification of network addresses and of the `Host` header: loopback, private, public."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

_NAT64: Final = ip_network("64:ff9b::/96")


def is_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or _is_loopback_address(host)


def is_loopback_host(host: str) -> bool:
    """Return whether `host`, a name or an address, with or without brackets, is this machine."""
    return host == "localhost" or host.endswith(".localhost") or _is_loopback_address(host.strip("[]"))


def known_host(header: str, allowed: Iterable[str], *, addresses: bool) -> bool:
    """Return whether a `Host` header names localhost, a loopback address or one of `allowed`.

    This stops DNS rebinding, by which a foreign site points its own name at this machine. With `addresses`
    any IP address is accepted as well: an address can't be rebound, so a server that listens beyond loopback
    accepts all of them.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in {other.lower() for other in allowed}:
        return True
    try:
        return ip_address(name).is_loopback or addresses
    except ValueError:
        return False


def address_of(host: str) -> Address | None:
    """Parse a URL's host as an address; None for a name.

    Accepts any notation that a resolver accepts (127.1, 0x7f000001). An IPv4 address that is embedded in an
    IPv6 address (such as ::ffff:127.0.0.1) is returned as IPv4.
    """
    host = host.rstrip(".")
    with suppress(ValueError):
        return _unwrapped(ip_address(host.partition("%")[0]))
    with suppress(OSError, UnicodeError):
        return IPv4Address(socket.inet_aton(host))
    return None


def is_local_name(host: str) -> bool:
    """Return whether a name means this machine by definition."""
    return host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost")


def is_public(address: Address) -> bool:
    """Return whether an address is public: not loopback, private, link-local, multicast or reserved."""
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site_local)


def _is_loopback_address(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and (address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1)):
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address
