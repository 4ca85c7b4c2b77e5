"""Constants of Bybit v5 market data: hosts, interval codes and published limits.

Source: https://bybit-exchange.github.io/docs/v5/ (guide, websocket/wss-authentication, rate-limit, enum).
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from agent.core.durations import format_duration
from agent.core.errors import ConfigError
from agent.system.addresses import is_loopback

ARGS_CHARACTERS: Final = 21_000
"""Limit on the `args` of all subscriptions of one public connection, in characters."""

SPOT_ARGS: Final = 10
"""Limit on the topics of one spot subscription request."""

MAX_CONNECTS: Final = 500
CONNECT_WINDOW: Final = 300.0
"""Limit on new connections, and its window in seconds."""

MAX_REQUESTS: Final = 600
REQUEST_WINDOW: Final = 5.0
"""Limit on REST requests of one address, and its window in seconds."""

PAGE: Final = 1000
"""Limit on the klines of one response."""

_MINUTE: Final = 60_000
_DAY: Final = 1440 * _MINUTE
_WEEK: Final = 7 * _DAY
_FIRST_MONDAY: Final = 4 * _DAY  # of the epoch

_MINUTES: Final = (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)
INTERVALS: Final = {minutes * _MINUTE: str(minutes) for minutes in _MINUTES} | {_DAY: "D", _WEEK: "W"}
"""Interval in ms -> the venue's code. Months are left out because they have no fixed length."""


class Endpoint(NamedTuple):
    """Base URLs of market data, without a path."""

    rest: str
    stream: str


_NETWORKS: Final = {
    "mainnet": Endpoint("https://api.bybit.com", "wss://stream.bybit.com"),
    "testnet": Endpoint("https://api-testnet.bybit.com", "wss://stream-testnet.bybit.com"),
}


def endpoint(name: str) -> Endpoint:
    """Return the URLs of `mainnet`, `testnet` or a sandbox's URL on this machine.

    A sandbox serves both on one port. Raises ValueError for anything else.
    """
    if name in _NETWORKS:
        return _NETWORKS[name]
    url = urlsplit(name)
    if url.scheme not in ("http", "https") or not is_loopback(name):
        expected = "mainnet, testnet nor an http URL of this machine such as http://127.0.0.1:8787"
        raise ValueError(f"{name!r} is neither {expected}")
    return Endpoint(f"{url.scheme}://{url.netloc}", f"ws{url.scheme.removeprefix('http')}://{url.netloc}")


def interval_code(interval: int) -> str:
    """Return the venue's code of an interval in ms. Raises ConfigError if it has none."""
    try:
        return INTERVALS[interval]
    except KeyError:
        known = ", ".join(map(format_duration, INTERVALS))
        raise ConfigError(
            f"Bybit has no klines of {format_duration(interval)}", hint=f"one of {known}"
        ) from None


def on_grid(start: int, interval: int) -> bool:
    """Return whether a bar can open at `start` (UTC ms): at a multiple of `interval`; weeks on Mondays."""
    return (start - _FIRST_MONDAY if interval == _WEEK else start) % interval == 0
