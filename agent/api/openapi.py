"""OpenAPI 3.1 document of the API, generated from the table of routes and the structs.

`python -m agent.api.openapi > docs/openapi.json`
"""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec

from agent.api.api_messages import Problem, Scope, StreamReset
from agent.api.problems import MEDIA_TYPE
from agent.api.route_table import BASE, ROUTES, NoQuery, Route
from agent.system.json_schemas import allow_null

VERSION: Final = "1.0.0"
"""The first number increases on incompatible changes, which get another path than `BASE`."""

_REFERENCE: Final = "#/components/schemas/{name}"


@cache
def document() -> dict[str, Any]:
    """Generate the document."""
    types: list[Any] = [Problem, StreamReset, *(route.response for route in ROUTES)]
    types += [route.body for route in ROUTES if route.body]
    types += [route.query for route in ROUTES if route.query is not NoQuery]
    references, definitions = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    of_type = dict(zip(map(repr, types), references, strict=True))
    queries = {
        route.name: definitions[route.query.__name__]["properties"]
        for route in ROUTES
        if route.query is not NoQuery
    }
    for route in ROUTES:
        definitions.pop(route.query.__name__, None)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operation = _operation(route, of_type, queries.get(route.name, {}))
        paths.setdefault(f"{BASE}{route.path}", {})[route.method.lower()] = operation
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tapewire",
            "version": VERSION,
            "description": "Recorded runs and the running agent, for programs. Times are UTC milliseconds; "
            "prices, quantities and amounts of orders, fills and trades are decimal strings. "
            "Fields may be added.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {name: allow_null(one) for name, one in sorted(definitions.items())},
            "responses": {
                "Problem": {
                    "description": "An error, see `type`.",
                    "content": {MEDIA_TYPE: {"schema": of_type[repr(Problem)]}},
                }
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"`tapewire token add`; scopes: {', '.join(one.value for one in Scope)}",
                }
            },
        },
    }
    found: dict[str, Any] = json.loads(json.dumps(made, default=str, allow_nan=False))
    return found


def _operation(route: Route, of_type: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    schema = of_type[repr(route.response)]
    media = "text/event-stream" if route.stream else route.media
    content: dict[str, Any] = {"schema": schema}
    if route.stream:  # each `data` is JSON of this type
        content = {"schema": {"type": "string"}, "x-message": schema, "x-reset": of_type[repr(StreamReset)]}
    responses: dict[str, Any] = {"200": {"description": route.summary, "content": {media: content}}}
    if route.etag:
        responses["200"]["headers"] = {"ETag": {"schema": {"type": "string"}}}
        responses["304"] = {"description": "If-None-Match names the response of a run that has ended."}
    for status in _statuses(route):
        responses[str(status.value)] = {"$ref": "#/components/responses/Problem"}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "x-scope": route.scope.value,
        "parameters": _parameters(route, query),
        "responses": responses,
    }
    if route.body is not None:
        body = {"schema": of_type[repr(route.body)]}
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    return operation


def _statuses(route: Route) -> list[HTTPStatus]:
    statuses = [HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN]
    if "{" in route.path or route.stream or route.body or route.name == "getState":
        statuses.append(HTTPStatus.NOT_FOUND)
    if route.body:
        statuses += [HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.UNPROCESSABLE_ENTITY]
    return [*statuses, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE]


def _parameters(route: Route, query: dict[str, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if "{run}" in route.path:
        run = {"name": "run", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        parameters.append(run | {"description": "Id of a run, its first characters, or latest."})
    if "{job}" in route.path:
        job = {"name": "job", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        parameters.append(job | {"description": "Id of a job."})
    for name, schema in query.items():
        parameter, shape = {"name": name, "in": "query", "required": False}, _without_null(schema)
        if "description" in shape:
            parameter["description"] = shape.pop("description")
        if shape.get("type") == "array":
            parameter |= {"style": "form", "explode": True}
        parameters.append(parameter | {"schema": shape})
    if route.stream:
        last = {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}}
        parameters.append(last | {"description": "`key` of the last message received."})
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema: one that is left out has no value, but none can be null."""
    found = dict(schema)
    if found.get("default", 0) is None:
        del found["default"]
    options = [one for one in found.pop("anyOf", ()) if one != {"type": "null"}]
    for option in options:
        found = option | found
    if None in found.get("enum", ()):
        found["enum"] = [one for one in found["enum"] if one is not None]
    return found


def text() -> str:
    """Return the document as checked in."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
