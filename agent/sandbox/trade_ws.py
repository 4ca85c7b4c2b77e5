"""The trade WebSocket: orders by message, through the same handlers, limits and checks as REST."""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any, Final

from agent.sandbox.channel import Channel
from agent.sandbox.errors import Refusal
from agent.sandbox.params import Params
from agent.sandbox.private_rest import PRIVATE, allowed, weight
from agent.sandbox.venue import Venue

_OPS: Final = {
    f"order.{verb}": f"/v5/order/{verb}"
    for verb in ("create", "amend", "cancel", "create-batch", "amend-batch", "cancel-batch")
}
_AUTH_CODES: Final = {10003: 10004, 10001: 10001}
_REMEMBERED: Final = 10_000
_LONGEST_ID: Final = 36
Json = dict[str, Any]


class TradeSocket:
    """Answers one connection."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._seen: deque[str] = deque(maxlen=_REMEMBERED)

    def receive(self, channel: Channel, message: Json) -> None:
        """One message."""
        op = str(message.get("op", ""))
        delay = self._venue.options.ack_delay_s
        if op == "ping":
            channel.send(
                {
                    "retCode": 0,
                    "retMsg": "OK",
                    "op": "pong",
                    "data": [str(self._venue.now())],
                    "connId": channel.id,
                },
                "pong",
            )
        elif op == "auth":
            channel.send(self._sign_in(channel, message), "auth", delay=delay)
            if not channel.authenticated:
                channel.close(delay)
        else:
            channel.send(self._order(channel, op, message), op, delay=delay / 5)

    def _sign_in(self, channel: Channel, message: Json) -> Json:
        code, text = 0, "OK"
        if channel.authenticated:
            code, text = 20001, "Repeat auth"
        else:
            try:
                self._venue.auth.socket(message.get("args"))
                channel.authenticated = True
            except Refusal as refusal:
                code, text = _AUTH_CODES.get(refusal.code, refusal.code), refusal.message
        answer = {"retCode": code, "retMsg": text, "op": "auth", "connId": channel.id}
        return answer | ({"reqId": message["reqId"]} if "reqId" in message else {})

    def _order(self, channel: Channel, op: str, message: Json) -> Json:
        venue = self._venue
        header = {"Traceid": uuid.uuid4().hex, "Timenow": str(venue.now())}
        code, text, data, extra = 0, "OK", {}, {}
        faults = venue.faults.strike(f"ws/trade/{op}", "retcode", "lost")
        try:
            for fault in faults:
                if fault.kind == "retcode":
                    raise Refusal(fault.answer, "sandbox fault")
            data = self._carry_out(channel, op, message, header)
            extra = data.pop("_ext", {})
            for fault in faults:
                if fault.kind == "lost":
                    raise Refusal(fault.answer, "Server Timeout")
        except Refusal as refusal:
            code, text, data, extra = refusal.code, refusal.message, {}, {}
        answer = {
            "reqId": message.get("reqId", ""),
            "retCode": code,
            "retMsg": text,
            "op": op,
            "data": data,
            "retExtInfo": extra,
        }
        return answer | {"header": header, "connId": channel.id}

    def _carry_out(self, channel: Channel, op: str, message: Json, header: dict[str, str]) -> Json:
        venue = self._venue
        request = str(message.get("reqId", ""))
        args, stated = message.get("args"), message.get("header")
        if op not in _OPS:
            raise Refusal(10404, f"op {op!r} is not found")
        if not channel.authenticated:
            raise Refusal(10003, "Request not authorized")
        if len(request) > _LONGEST_ID:
            raise Refusal(20003, "reqId is longer than 36 characters")
        if request and request in self._seen:
            raise Refusal(20006, "reqId is duplicate")
        if request:
            self._seen.append(request)
        if (
            not isinstance(args, list)
            or len(args) != 1
            or not isinstance(args[0], dict)
            or not isinstance(stated, dict)
        ):
            raise Refusal(10001, "Params Error: header and one element of args are required")
        venue.auth.timestamp(stated.get("X-BAPI-TIMESTAMP"), stated.get("X-BAPI-RECV-WINDOW"))
        path = _OPS[op]
        endpoint = PRIVATE["POST", path]
        params = Params(args[0])
        allowance, refusal = venue.limits.take(*allowed(endpoint, path, params), weight(path, params))
        header |= allowance.headers(venue.now())
        if refusal is not None:
            raise Refusal(10429, refusal.message)
        return endpoint.handler(venue, params)
