"""REST interface: IP limit, faults, signature and rate limit for each request; Bybit's envelope."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.sandbox.bybit_errors import BybitError, parameter_error
from agent.sandbox.faults import Fault, damage_payload
from agent.sandbox.json_values import Params
from agent.sandbox.private_rest import ORDERS, PRIVATE, allowed, weight
from agent.sandbox.public_rest import PUBLIC
from agent.sandbox.sandbox_venue import SandboxVenue
from agent.system.untrusted import JSON_DECODE_ERRORS

Json = dict[str, Any]
_HTTP_FAULTS: Final = ("delay", "timeout", "close", "status")
_RESPONSE_FAULTS: Final = ("retcode", "lost")


class RestApi:
    """Handles requests to /v5/… of one venue."""

    def __init__(self, venue: SandboxVenue) -> None:
        self._venue = venue

    async def handle(self, request: web.Request) -> web.StreamResponse:
        venue = self._venue
        target = f"rest{request.path}"
        try:
            venue.limits.check_address(request.remote or "")
        except BybitError as error:
            return web.Response(status=error.status, text=error.message)
        broken = await apply_transport_faults(request, venue.faults.draw(target, *_HTTP_FAULTS))
        if broken is not None:
            return broken
        body = await request.read()
        time = venue.now()  # taken before catching up: the response must include all events up to this time
        venue.market.catch_up()
        headers: dict[str, str] = {}
        faults = venue.faults.draw(target, *_RESPONSE_FAULTS)
        status = 200
        try:
            for fault in faults:
                if fault.kind == "retcode":
                    raise _fault_error(fault)
            code, message, result, extra = await self._respond(request, body, headers)
            for fault in faults:
                if fault.kind == "lost":
                    raise _fault_error(fault)
        except BybitError as error:
            status = error.status
            code, message, result, extra = error.code, error.message, dict(error.result), {}
        response = {"retCode": code, "retMsg": message, "result": result, "retExtInfo": extra, "time": time}
        payload = damage_payload(
            msgspec.json.encode(response), venue.faults.draw(target, "corrupt", "truncate")
        )
        return web.Response(body=payload, status=status, content_type="application/json", headers=headers)

    async def _respond(
        self, request: web.Request, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str, Json, Json]:
        venue = self._venue
        verb, path = request.method, request.path
        if verb == "GET" and (public := PUBLIC.get(path)):
            return 0, "OK", public(venue, Params(request.query)), {}
        endpoint = PRIVATE.get((verb, path))
        if endpoint is None:
            known = path in PUBLIC or any(path == other for _, other in PRIVATE)
            raise BybitError(
                10017,
                "Route not found." if not known else "Request method not supported.",
                status=400 if known else 404,
            )
        if verb == "GET" and body:
            raise BybitError(10001, "a GET request has no body", status=403)
        raw_query = request.raw_path.partition("?")[2].encode()
        venue.auth.check_request(request.headers, raw_query if verb == "GET" else body)
        params = Params(request.query if verb == "GET" else _object(body))
        allowance, error = venue.limits.count(*allowed(endpoint, path, params), weight(path, params))
        headers.update(allowance.headers(venue.now()))
        if error is not None:
            raise error
        if verb == "POST" and path.startswith(ORDERS) and venue.options.order_latency:
            await asyncio.sleep(venue.order_latency_s)
            venue.market.catch_up()
        result = endpoint.handler(venue, params)
        extra = result.pop("_ext", {})
        return 0, "OK", result, extra


async def apply_transport_faults(request: web.Request, faults: list[Fault]) -> web.StreamResponse | None:
    """Apply faults to an HTTP exchange; return a response if one of them ends the exchange."""
    for fault in faults:
        if fault.kind in ("delay", "timeout"):
            await asyncio.sleep(fault.ms / 1000)
        if fault.kind in ("timeout", "close"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault.kind == "status":
            text = "access too frequent" if fault.response_code == 403 else "sandbox fault"
            return web.Response(status=fault.response_code, text=text)
    return None


def _fault_error(fault: Fault) -> BybitError:
    texts = {
        10000: "Server Timeout",
        10002: "invalid request, please check your server timestamp or recv_window param.",
        10006: "Too many visits. Exceeded the API Rate Limit.",
        10016: "Server error.",
    }
    return BybitError(fault.response_code, texts.get(fault.response_code, "sandbox fault"))


def _object(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except JSON_DECODE_ERRORS as error:
        raise parameter_error(f"params error: the body is not a JSON object: {error}") from None
