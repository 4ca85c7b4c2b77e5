"""How often one may ask: by key and endpoint within a second, and by address within five."""

from __future__ import annotations

from collections import defaultdict, deque
from time import monotonic
from typing import Final, NamedTuple

from agent.sandbox.errors import Refusal, too_many_visits

_IP_WINDOW_S: Final = 5.0
_SOCKET_WINDOW_S: Final = 300.0


class Allowance(NamedTuple):
    """What is left: requests allowed a second, how many remain, and in how many ms the window has moved on."""

    limit: int
    left: int
    reset_ms: int

    def headers(self, now: int) -> dict[str, str]:
        """As every private answer carries them; `now` is the venue's time in UTC ms."""
        return {
            "X-Bapi-Limit": str(self.limit),
            "X-Bapi-Limit-Status": str(self.left),
            "X-Bapi-Limit-Reset-Timestamp": str(now + self.reset_ms),
        }


class RateLimits:
    """Rolling windows on the machine's clock.

    `ip_limit` requests in 5 s are allowed to an address, else it is shut out for `ban_s`; and `socket_limit` new WebSockets in 5 min.
    """

    def __init__(self, ip_limit: int, ban_s: float, socket_limit: int) -> None:
        self._ip_limit = ip_limit
        self._ban_s = ban_s
        self._socket_limit = socket_limit
        self._sockets: dict[str, deque[float]] = defaultdict(deque)
        self._used: dict[str, deque[float]] = defaultdict(deque)
        self._seen: dict[str, deque[float]] = defaultdict(deque)
        self._banned: dict[str, float] = {}

    def take(self, endpoint: str, limit: int, weight: int = 1) -> tuple[Allowance, Refusal | None]:
        """Count a request, or several at once; the refusal (10006) if that is too many, which then don't count.

        A batch larger than the limit passes where nothing was asked in the second before.
        """
        now = monotonic()
        used = self._used[endpoint]
        while used and used[0] <= now - 1:
            used.popleft()
        refused = bool(used) and len(used) + weight > limit
        if not refused:
            used.extend([now] * weight)
        reset = round((used[0] + 1 - now) * 1000) if used else 0
        return Allowance(limit, max(0, limit - len(used)), reset), too_many_visits() if refused else None

    def check_address(self, address: str) -> None:
        """Refuse with HTTP 403 what comes from an address too often."""
        now = monotonic()
        if _count(self._seen[address], now, _IP_WINDOW_S) > self._ip_limit:
            self._banned[address] = now + self._ban_s
        if self._banned.get(address, 0.0) > now:
            raise Refusal(10018, "access too frequent", status=403)

    def check_socket(self, address: str) -> None:
        """Refuse with HTTP 403 a connection of an address that connects too often."""
        if _count(self._sockets[address], monotonic(), _SOCKET_WINDOW_S) > self._socket_limit:
            raise Refusal(10018, "too many new connections", status=403)


def _count(moments: deque[float], now: float, window: float) -> int:
    """How many there were in the window, now included."""
    while moments and moments[0] <= now - window:
        moments.popleft()
    moments.append(now)
    return len(moments)
