"""Who sends a request to the API: a token with its scopes and its rate limit, or a logged-in browser."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from aiohttp import web

from agent.api.api_messages import Scope
from agent.api.api_tokens import MAX_TOKENS, TokenRegistry
from agent.api.route_table import BASE
from agent.system.clock import Clock
from agent.system.untrusted import Allowance

_SCHEME: Final = "bearer"


class Sender(NamedTuple):
    """The sender of a request. `name` is journalled with its commands."""

    name: str
    scopes: frozenset[Scope]
    token: str | None = None  # of a program; None for a browser


SENDER: Final = web.RequestKey("sender", Sender)
"""Key of the request's sender."""


def is_api(path: str) -> bool:
    """Return True for the paths of the API; `path` is without the server's base path."""
    return path == BASE or path.startswith(f"{BASE}/")


def bearer_token(request: web.Request) -> str | None:
    """Return the token in the header Authorization; None if it has none of the scheme Bearer."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == _SCHEME else None


class TokenAccess:
    """Valid tokens, and the requests a minute of each."""

    def __init__(self, registry: TokenRegistry, per_minute: int, clock: Clock) -> None:
        self._registry = registry
        self._per_minute = per_minute
        self._clock = clock
        self._used: OrderedDict[str, Allowance] = OrderedDict()

    def sender(self, token: str) -> Sender | None:
        """Return the sender that a valid token stands for."""
        found = self._registry.find(token, self._clock.now())
        return None if found is None else Sender(f"api {found.name}", frozenset(found.scopes), token)

    def is_valid(self, sender: Sender) -> bool:
        """Return True if the sender's token is still valid."""
        return sender.token is not None and self.sender(sender.token) == sender

    def retry_after(self, sender: Sender) -> int:
        """Count a request; return 0 if it is within the limit, else the seconds to wait."""
        allowance = self._used.setdefault(sender.name, Allowance(self._per_minute))
        self._used.move_to_end(sender.name)
        if len(self._used) > 2 * MAX_TOKENS:
            self._used.popitem(last=False)
        return 0 if allowance.take() else allowance.retry_after()
