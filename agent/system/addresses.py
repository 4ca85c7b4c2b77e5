"""Which addresses are this machine's own, and which are private."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

_NAT64: Final = ip_network("64:ff9b::/96")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(host: str) -> Address | None:
    """The address that a URL's host is, in any notation that a resolver would take (127.1, 0x7f000001); None for a name.

    An IPv4 address inside of an IPv6 one (::ffff:127.0.0.1 and its like) is the IPv4 address.
    """
    host = host.rstrip(".")
    with suppress(ValueError):
        return _unwrapped(ip_address(host.partition("%")[0]))
    with suppress(OSError, UnicodeError):
        return IPv4Address(socket.inet_aton(host))
    return None


def is_local_name(host: str) -> bool:
    """Whether a name means this machine by definition."""
    return host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet: not loopback, private, link-local, multicast or reserved."""
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site_local)


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and (address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1)):
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address
