"""Which `Host` a request may name: a foreign site that points its own name at this machine (DNS rebinding) must get nothing."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit


def known_host(header: str, allowed: Iterable[str], *, addresses: bool) -> bool:
    """Whether `header` names localhost, a loopback address, or one of `allowed`; any IP address too if `addresses`.

    An IP address can't be rebound, so a server that listens beyond loopback accepts all of them.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in {other.lower() for other in allowed}:
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or addresses


def is_loopback_host(host: str) -> bool:
    """Whether `host`, a name or an address without brackets, is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
