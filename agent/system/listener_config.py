"""Limits of every listening server.

Apart from `listening_sockets`, so that reading a configuration imports no aiohttp.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.core.durations import Duration
from agent.core.settings import Section

Network = IPv4Network | IPv6Network


class ListenerConfig(Section):
    """Limits on a server's connections and on the time that it waits for a request."""

    connections: int = Field(64, ge=2)  # at once; beyond it the oldest that has not logged in is closed
    connections_per_client: int = Field(32, ge=1)  # from one address
    head_timeout: Duration = Field(10_000, gt=0)  # from connecting to a complete request head
    idle_timeout: Duration = Field(75_000, gt=0)  # between two requests of a connection


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value, strict=False)
        except ValueError:
            expected = "write e.g. 127.0.0.1 or 172.16.0.0/12"
            raise ValueError(f"{value!r} is not an address or network: {expected}") from None
    return values


Networks = Annotated[tuple[str, ...], AfterValidator(_networks)]
"""Addresses and networks, e.g. `127.0.0.1` or `172.16.0.0/12`."""
