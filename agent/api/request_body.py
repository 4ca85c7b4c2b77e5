"""The body of a request, decoded and checked against its type."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from agent.api.problems import RequestProblem
from agent.system.untrusted import JSON_DECODE_ERRORS


async def read_body(request: web.Request, kind: Any) -> Any:
    """Return the JSON body as `kind`. Raises RequestProblem that names the wrong field."""
    if request.content_type != "application/json":
        raise RequestProblem(
            "unsupported-media-type",
            "the body is not declared as JSON",
            hint="Content-Type: application/json",
        )
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except JSON_DECODE_ERRORS as error:
        what, _, where = str(error).partition(" - at `$")
        raise RequestProblem("invalid-body", what, where=where.strip("`.")) from None
