"""Errors of the API: one table of their types, and the responses that state them (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web

from agent.api.api_messages import Problem
from agent.core.errors import (
    DataError,
    NotRunning,
    SafetyError,
    StoreUnavailable,
    TapewireError,
    UsageError,
)
from agent.system.limited_threads import ServerBusy

MEDIA_TYPE: Final = "application/problem+json"
URN: Final = "urn:tapewire:problem:"

PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "invalid-parameter": (400, "A query parameter has an invalid value"),
    "unknown-parameter": (400, "A query parameter doesn't exist"),
    "invalid-body": (400, "The body is not what the route expects"),
    "unauthorized": (401, "A valid token is required"),
    "insufficient-scope": (403, "The token lacks a scope"),
    "commands-disabled": (403, "Commands through the API are disabled"),
    "forbidden": (403, "The request is not allowed"),
    "jobs-disabled": (403, "This server runs no jobs"),
    "refused": (403, "The agent refused for safety"),
    "no-route": (404, "There is no such route"),
    "no-run": (404, "There is no such run"),
    "no-job": (404, "There is no such job"),
    "no-results": (404, "The run has no results"),
    "no-agent": (404, "No agent is running here"),
    "method-not-allowed": (405, "The route has no such method"),
    "timeout": (408, "The body arrived too slowly"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "unknown-host": (421, "The server isn't this host"),
    "invalid-command": (422, "The command can't be executed"),
    "invalid-job": (422, "The job can't be started"),
    "rate-limited": (429, "Too many requests"),
    "internal": (500, "The request failed"),
    "busy": (503, "The server is busy"),
    "agent-timeout": (504, "The agent did not respond in time"),
}
"""Type -> status and title."""

_OF_STATUS: Final = {
    404: "no-route",
    405: "method-not-allowed",
    408: "timeout",
    413: "too-large",
    415: "unsupported-media-type",
}


class RequestProblem(TapewireError):
    """A request that gets a problem as its response. `kind` is one of `PROBLEMS`."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        where: str = "",
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.where = where
        self.headers = dict(headers or {})


def problem_response(request: web.Request, error: RequestProblem) -> web.Response:
    """Return the response that states a problem."""
    status, title = PROBLEMS[error.kind]
    problem = Problem(
        f"{URN}{error.kind}", title, status, error.message, request.path, error.where, error.hint
    )
    return web.Response(
        status=status,
        body=msgspec.json.encode(problem),
        headers=error.headers | {"Content-Type": MEDIA_TYPE},
    )


def problem_of_http(error: web.HTTPException) -> RequestProblem | None:
    """Return the problem that stands for aiohttp's own error response; None for one without a body."""
    kind = _OF_STATUS.get(error.status)
    if kind is None:
        return None
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    hint = "GET /api/v1/openapi.json lists the routes" if kind in ("no-route", "method-not-allowed") else ""
    return RequestProblem(kind, error.reason, hint=hint, headers=headers)


def problem_of(error: TapewireError, *, command: bool) -> RequestProblem:
    """Return the problem that states an error of the program; `command` if a command raised it."""
    if isinstance(error, RequestProblem):
        return error
    headers = {}
    if isinstance(error, (ServerBusy, StoreUnavailable)):
        kind, headers = "busy", {"Retry-After": "1"}
    elif isinstance(error, SafetyError):
        kind = "refused"
    elif isinstance(error, NotRunning):
        kind = "no-agent"
    elif isinstance(error, UsageError):
        kind = "invalid-command" if command else "no-run"
    elif isinstance(error, DataError):
        kind = "no-results"
    else:
        kind = "internal"
    return RequestProblem(kind, error.message, hint=error.hint, headers=headers)
