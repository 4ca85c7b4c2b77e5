"""The REST door: every request passes address limit, faults, signature and rate limit, and every answer has the venue's envelope."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.sandbox.errors import Refusal, parameter
from agent.sandbox.faults import Fault, spoil
from agent.sandbox.params import Params
from agent.sandbox.private_rest import PRIVATE, allowed, weight
from agent.sandbox.public_rest import PUBLIC
from agent.sandbox.venue import Venue
from agent.system.untrusted import JSON_DECODE_ERRORS

Json = dict[str, Any]
_HTTP_FAULTS: Final = ("delay", "timeout", "close", "status")
_ANSWER_FAULTS: Final = ("retcode", "lost")


class RestDoor:
    """Answers /v5/… of one venue."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        venue = self._venue
        target = f"rest{request.path}"
        try:
            venue.limits.check_address(request.remote or "")
        except Refusal as refusal:
            return web.Response(status=refusal.status, text=refusal.message)
        broken = await break_transport(request, venue.faults.strike(target, *_HTTP_FAULTS))
        if broken is not None:
            return broken
        body = await request.read()
        stated = venue.now()  # before the look at the market: nothing that happened up to then may be lacking
        venue.market.catch_up()
        headers: dict[str, str] = {}
        answers = venue.faults.strike(target, *_ANSWER_FAULTS)
        status = 200
        try:
            for fault in answers:
                if fault.kind == "retcode":
                    raise _refusal(fault)
            code, message, result, extra = self._answer(request, body, headers)
            for fault in answers:
                if fault.kind == "lost":
                    raise _refusal(fault)
        except Refusal as refusal:
            status = refusal.status
            code, message, result, extra = refusal.code, refusal.message, dict(refusal.result), {}
        answer = {"retCode": code, "retMsg": message, "result": result, "retExtInfo": extra, "time": stated}
        payload = spoil(msgspec.json.encode(answer), venue.faults.strike(target, "corrupt", "truncate"))
        return web.Response(body=payload, status=status, content_type="application/json", headers=headers)

    def _answer(
        self, request: web.Request, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str, Json, Json]:
        venue = self._venue
        verb, path = request.method, request.path
        if verb == "GET" and (public := PUBLIC.get(path)):
            return 0, "OK", public(venue, Params(request.query)), {}
        endpoint = PRIVATE.get((verb, path))
        if endpoint is None:
            known = path in PUBLIC or any(path == other for _, other in PRIVATE)
            raise Refusal(
                10017,
                "Route not found." if not known else "Request method not supported.",
                status=400 if known else 404,
            )
        if verb == "GET" and body:
            raise Refusal(10001, "a GET request has no body", status=403)
        raw_query = request.raw_path.partition("?")[2].encode()
        venue.auth.request(request.headers, raw_query if verb == "GET" else body)
        params = Params(request.query if verb == "GET" else _object(body))
        allowance, refusal = venue.limits.take(*allowed(endpoint, path, params), weight(path, params))
        headers.update(allowance.headers(venue.now()))
        if refusal is not None:
            raise refusal
        result = endpoint.handler(venue, params)
        extra = result.pop("_ext", {})
        return 0, "OK", result, extra


async def break_transport(request: web.Request, faults: list[Fault]) -> web.StreamResponse | None:
    """Do what faults do to an HTTP exchange before it is answered; a response if they answer it."""
    for fault in faults:
        if fault.kind in ("delay", "timeout"):
            await asyncio.sleep(fault.ms / 1000)
        if fault.kind in ("timeout", "close"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault.kind == "status":
            text = "access too frequent" if fault.answer == 403 else "sandbox fault"
            return web.Response(status=fault.answer, text=text)
    return None


def _refusal(fault: Fault) -> Refusal:
    texts = {
        10000: "Server Timeout",
        10002: "invalid request, please check your server timestamp or recv_window param.",
        10006: "Too many visits. Exceeded the API Rate Limit.",
        10016: "Server error.",
    }
    return Refusal(fault.answer, texts.get(fault.answer, "sandbox fault"))


def _object(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except JSON_DECODE_ERRORS as error:
        raise parameter(f"params error: the body is not a JSON object: {error}") from None
