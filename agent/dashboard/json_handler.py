"""Responses of the page's own routes: JSON, with the status that belongs to an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.core.errors import (
    DataError,
    SafetyError,
    StoreUnavailable,
    TapewireError,
    UsageError,
    VenueError,
)
from agent.dashboard.websocket import encode
from agent.system.limited_threads import ServerBusy


def json_handler(work: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Return a handler that sends the result of `work`, or its error, as JSON."""

    @wraps(work)
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=encode(await work(request)), content_type="application/json")
        except TapewireError as error:
            body, status = {"error": error.message, "hint": error.hint}, status_of(error)
        except TimeoutError:
            body, status = {"error": "the agent did not respond in time", "hint": "see its log"}, 504
        return web.Response(status=status, body=encode(body), content_type="application/json")

    return handle


def status_of(error: TapewireError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, (ServerBusy, StoreUnavailable)):
        return 503
    if isinstance(error, SafetyError):
        return 403
    if isinstance(error, VenueError):  # another server failed
        return 502
    return 404 if isinstance(error, (DataError, UsageError)) else 500
