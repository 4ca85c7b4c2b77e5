"""Facts about Bybit v5 market data: hosts, interval codes and published limits.

Source: https://bybit-exchange.github.io/docs/v5/ (guide, websocket/wss-authentication, rate-limit, enum).
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from agent.core.durations import format_duration
from agent.core.errors import ConfigError
from agent.system.addresses import is_loopback

ARGS_CHARACTERS: Final = 21_000
"""The `args` of all subscriptions of one public connection, in characters."""

SPOT_ARGS: Final = 10
"""Topics of one spot subscription request."""

MAX_CONNECTS: Final = 500
CONNECT_WINDOW: Final = 300.0
"""New connections in so many seconds."""

MAX_REQUESTS: Final = 600
REQUEST_WINDOW: Final = 5.0
"""REST requests of one address in so many seconds."""

PAGE: Final = 1000
"""Klines of one answer at most."""

_MINUTE: Final = 60_000
_DAY: Final = 1440 * _MINUTE
_WEEK: Final = 7 * _DAY
_FIRST_MONDAY: Final = 4 * _DAY  # of the epoch

INTERVALS: Final = {
    minutes * _MINUTE: str(minutes) for minutes in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)
} | {
    _DAY: "D",
    _WEEK: "W",
}
"""Interval in ms -> the venue's code. Months are left out: they have no fixed length."""


class Endpoint(NamedTuple):
    """Where market data comes from: base URLs, without a path."""

    rest: str
    stream: str


_NETWORKS: Final = {
    "mainnet": Endpoint("https://api.bybit.com", "wss://stream.bybit.com"),
    "testnet": Endpoint("https://api-testnet.bybit.com", "wss://stream-testnet.bybit.com"),
}


def endpoint(name: str) -> Endpoint:
    """The URLs of `mainnet`, `testnet`, or of a sandbox on this machine, which serves both on one port.

    Raises ValueError for anything else.
    """
    if name in _NETWORKS:
        return _NETWORKS[name]
    url = urlsplit(name)
    if url.scheme not in ("http", "https") or not is_loopback(name):
        raise ValueError(
            f"{name!r} is neither mainnet, testnet nor an http URL of this machine such as http://127.0.0.1:8787"
        )
    return Endpoint(f"{url.scheme}://{url.netloc}", f"ws{url.scheme.removeprefix('http')}://{url.netloc}")


def interval_code(interval: int) -> str:
    """The venue's name of an interval in ms. Raises ConfigError where it has none."""
    try:
        return INTERVALS[interval]
    except KeyError:
        raise ConfigError(
            f"Bybit has no klines of {format_duration(interval)}",
            hint=f"one of {', '.join(map(format_duration, INTERVALS))}",
        ) from None


def on_grid(start: int, interval: int) -> bool:
    """Whether a bar of this interval can open at `start` (UTC ms): at its multiples since midnight, or on Mondays."""
    return (start - _FIRST_MONDAY if interval == _WEEK else start) % interval == 0
