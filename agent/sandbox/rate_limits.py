"""Rate limits: per key and endpoint within a second, and per IP address within five seconds."""

from __future__ import annotations

from collections import defaultdict, deque
from time import monotonic
from typing import Final, NamedTuple

from agent.sandbox.bybit_errors import BybitError, rate_limited

_IP_WINDOW_S: Final = 5.0
_SOCKET_WINDOW_S: Final = 300.0


class RateLimitStatus(NamedTuple):
    """Requests allowed per second, requests left, and milliseconds until the window has moved on."""

    limit: int
    left: int
    reset_ms: int

    def headers(self, now: int) -> dict[str, str]:
        """Return the headers of every private response. `now` is the venue's time (UTC ms)."""
        return {
            "X-Bapi-Limit": str(self.limit),
            "X-Bapi-Limit-Status": str(self.left),
            "X-Bapi-Limit-Reset-Timestamp": str(now + self.reset_ms),
        }


class RateLimits:
    """Rolling windows on the machine's clock.

    An IP address that sends more than `ip_limit` requests in 5 s is banned for `ban_s` seconds. It may open
    `socket_limit` WebSockets in 5 min.
    """

    def __init__(self, ip_limit: int, ban_s: float, socket_limit: int) -> None:
        self._ip_limit = ip_limit
        self._ban_s = ban_s
        self._socket_limit = socket_limit
        self._sockets: dict[str, deque[float]] = defaultdict(deque)
        self._used: dict[str, deque[float]] = defaultdict(deque)
        self._seen: dict[str, deque[float]] = defaultdict(deque)
        self._banned: dict[str, float] = {}

    def count(self, endpoint: str, limit: int, weight: int = 1) -> tuple[RateLimitStatus, BybitError | None]:
        """Count `weight` requests and return the limit's state, with error 10006 if they exceed the limit.

        Rejected requests do not count. A batch larger than the limit passes if no request was made in the
        second before.
        """
        now = monotonic()
        used = self._used[endpoint]
        while used and used[0] <= now - 1:
            used.popleft()
        refused = bool(used) and len(used) + weight > limit
        if not refused:
            used.extend([now] * weight)
        reset = round((used[0] + 1 - now) * 1000) if used else 0
        return RateLimitStatus(limit, max(0, limit - len(used)), reset), rate_limited() if refused else None

    def check_address(self, address: str) -> None:
        """Count a request of an address. Raises BybitError with HTTP 403 if the address has sent too many."""
        now = monotonic()
        if _count(self._seen[address], now, _IP_WINDOW_S) > self._ip_limit:
            self._banned[address] = now + self._ban_s
        if self._banned.get(address, 0.0) > now:
            raise BybitError(10018, "access too frequent", status=403)

    def check_connection(self, address: str) -> None:
        """Count a new WebSocket of an address. Raises BybitError with HTTP 403 if there are too many."""
        if _count(self._sockets[address], monotonic(), _SOCKET_WINDOW_S) > self._socket_limit:
            raise BybitError(10018, "too many new connections", status=403)


def _count(moments: deque[float], now: float, window: float) -> int:
    """Add the current moment and return the number of moments in the window."""
    while moments and moments[0] <= now - window:
        moments.popleft()
    moments.append(now)
    return len(moments)
