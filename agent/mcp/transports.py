"""The transports of the MCP server: standard input and output, and streamable HTTP with tokens."""

from __future__ import annotations

import socket
from typing import Any, Final

import msgspec
import structlog
import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.api.api_access import Sender, TokenAccess
from agent.api.api_messages import Scope as TokenScope
from agent.config import Config
from agent.core.errors import ConfigError, SafetyError
from agent.mcp.server import AssistantServer, Context
from agent.system.addresses import is_loopback_host

PATH: Final = "/mcp"
"""Path of the server's one URL."""

_SESSIONS: Final = 64
_MAX_BODY: Final = 1 << 20  # bytes of a request
_log: Final = structlog.get_logger(__name__)


async def serve_stdio(server: AssistantServer) -> None:
    """Serve one client over standard input and output, until it closes them."""
    protocol = server.protocol
    async with stdio_server() as (incoming, outgoing):
        await protocol.run(incoming, outgoing, protocol.create_initialization_options())


def listen(host: str, port: int, *, allow_plain: bool) -> socket.socket:
    """Return a bound socket; port 0 takes any free one.

    Raises SafetyError for an address other than loopback unless `allow_plain`: tokens and results would
    travel unencrypted. Raises ConfigError if the address can't be used.
    """
    if not is_loopback_host(host) and not allow_plain:
        raise SafetyError(
            f"{host} is not loopback, and this server has no TLS: tokens would travel in the clear",
            hint="listen on 127.0.0.1 behind a proxy with TLS; or --allow-plain, in a network that you trust",
        )
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} can't be used: {error.strerror}", hint="choose another address or port"
        ) from None


async def serve_http(server: AssistantServer, config: Config, access: TokenAccess, at: socket.socket) -> None:
    """Serve clients with tokens on the socket `at`, until a signal ends the process."""
    host, port = at.getsockname()[:2]
    names = ["127.0.0.1", "localhost", "[::1]", *config.mcp.allowed_hosts]
    names += [] if is_loopback_host(host) else [f"[{host}]" if ":" in host else host]
    hosts = [*names, *(f"{name}:*" for name in names)]
    security = TransportSecuritySettings(
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")],
    )
    app = server.protocol.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security,
        max_sessions=_SESSIONS,
        max_request_body_size=_MAX_BODY,
    )
    options = uvicorn.Config(
        _TokenGate(app, access), log_config=None, lifespan="on", server_header=False, access_log=False
    )
    _log.info("MCP server", url=f"http://{host}:{port}{PATH}")
    await uvicorn.Server(options).serve(sockets=[at])


def sender_of(context: Context) -> tuple[str, frozenset[TokenScope]]:
    """Return the name and scopes of the token that a request over HTTP came with."""
    request = context.request
    sender = request.scope.get("tapewire.sender") if isinstance(request, Request) else None
    if not isinstance(sender, Sender):
        return "no token", frozenset()
    return sender.name, sender.scopes


class _TokenGate:
    """Refuses requests without a valid token of the API, or beyond its rate."""

    def __init__(self, app: ASGIApp, access: TokenAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = self._sender(scope)
        if sender is None:
            await _refuse(
                send, 401, "the token is missing, unknown, revoked or expired", ("www-authenticate", "Bearer")
            )
            return
        if seconds := self._access.retry_after(sender):
            await _refuse(
                send, 429, f"{sender.name} has sent too many requests", ("retry-after", str(seconds))
            )
            return
        scope["tapewire.sender"] = sender
        # Sessions are bound to the token that opened them
        token = AccessToken(token="", client_id=sender.name, scopes=[one.value for one in sender.scopes])
        scope["user"] = AuthenticatedUser(token)
        await self._app(scope, receive, send)

    def _sender(self, scope: Scope) -> Sender | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, token = value.decode("latin-1").partition(" ")
                return self._access.sender(token.strip()) if scheme.lower() == "bearer" else None
        return None


async def _refuse(send: Send, status: int, why: str, header: tuple[str, str]) -> None:
    body: dict[str, Any] = {"status": status, "detail": why, "hint": "tapewire token add makes a token"}
    encoded = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(encoded))]
    headers.append((header[0].encode(), header[1].encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": encoded})
