"""Limits that every listening server has."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.core.durations import Duration
from agent.core.settings import Section

Network = IPv4Network | IPv6Network


class ListenerConfig(Section):
    """How many connections a server holds, and how long it waits for a request."""

    connections: int = Field(64, ge=2)  # at once; beyond it the oldest that has not logged in is closed
    connections_per_client: int = Field(32, ge=1)  # of one address
    head_timeout: Duration = Field(10_000, gt=0)  # from connecting to a complete request head
    idle_timeout: Duration = Field(75_000, gt=0)  # between two requests of a connection


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value, strict=False)
        except ValueError:
            raise ValueError(
                f"{value!r} is no address or network: write e.g. 127.0.0.1 or 172.16.0.0/12"
            ) from None
    return values


Networks = Annotated[tuple[str, ...], AfterValidator(_networks)]
"""Addresses and networks, e.g. `127.0.0.1` or `172.16.0.0/12`."""
