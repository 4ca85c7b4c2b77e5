"""Trade WebSocket: orders by message, with the same handlers, limits and checks as REST."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import Any, Final

from agent.sandbox.bybit_errors import BybitError
from agent.sandbox.channel import ClientChannel
from agent.sandbox.json_values import Params
from agent.sandbox.private_rest import ORDERS, PRIVATE, Handler, allowed, weight
from agent.sandbox.sandbox_venue import SandboxVenue

_OPS: Final = {
    f"order.{verb}": f"{ORDERS}{verb}"
    for verb in ("create", "amend", "cancel", "create-batch", "amend-batch", "cancel-batch")
}
_AUTH_CODES: Final = {10003: 10004, 10001: 10001}
_REMEMBERED: Final = 10_000
_MAX_ID_LENGTH: Final = 36
Json = dict[str, Any]


class TradeSocket:
    """Handles the messages of one connection."""

    def __init__(self, venue: SandboxVenue) -> None:
        self._venue = venue
        self._seen: deque[str] = deque(maxlen=_REMEMBERED)

    def handle_message(self, channel: ClientChannel, message: Json) -> None:
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
            channel.send(self._authenticate(channel, message), "auth", delay=delay)
            if not channel.authenticated:
                channel.close(delay)
        else:
            self._order(channel, op, message)

    def _authenticate(self, channel: ClientChannel, message: Json) -> Json:
        code, text = 0, "OK"
        if channel.authenticated:
            code, text = 20001, "Repeat auth"
        else:
            try:
                self._venue.auth.check_socket_auth(message.get("args"))
                channel.authenticated = True
            except BybitError as error:
                code, text = _AUTH_CODES.get(error.code, error.code), error.message
        response = {"retCode": code, "retMsg": text, "op": "auth", "connId": channel.id}
        return response | ({"reqId": message["reqId"]} if "reqId" in message else {})

    def _order(self, channel: ClientChannel, op: str, message: Json) -> None:
        """Check a request now; carry it out and respond after `order_latency`."""
        venue = self._venue
        header = {"Traceid": uuid.uuid4().hex, "Timenow": str(venue.now())}
        faults = venue.faults.draw(f"ws/trade/{op}", "retcode", "lost")
        try:
            for fault in faults:
                if fault.kind == "retcode":
                    raise BybitError(fault.response_code, "sandbox fault")
            handler, params = self._check(channel, op, message, header)
        except BybitError as error:
            self._respond(channel, op, message, header, error)
            return
        lost = [fault for fault in faults if fault.kind == "lost"]

        def carry_out() -> None:
            venue.market.catch_up()  # the order meets the prices that are due
            try:
                data = handler(venue, params)
                for fault in lost:
                    raise BybitError(fault.response_code, "Server Timeout")
            except BybitError as error:
                self._respond(channel, op, message, header, error)
            else:
                self._respond(channel, op, message, header, None, data)

        if venue.options.order_latency:
            asyncio.get_running_loop().call_later(venue.order_latency_s, carry_out)
        else:
            carry_out()

    def _respond(
        self,
        channel: ClientChannel,
        op: str,
        message: Json,
        header: dict[str, str],
        error: BybitError | None,
        data: Json | None = None,
    ) -> None:
        found = dict(data or {})
        response = {
            "reqId": message.get("reqId", ""),
            "retCode": 0 if error is None else error.code,
            "retMsg": "OK" if error is None else error.message,
            "op": op,
            "retExtInfo": found.pop("_ext", {}),
            "data": found,
        }
        response |= {"header": header, "connId": channel.id}
        channel.send(response, op, delay=self._venue.options.ack_delay_s / 5)

    def _check(
        self, channel: ClientChannel, op: str, message: Json, header: dict[str, str]
    ) -> tuple[Handler, Params]:
        """Return what a request asks for. Raises BybitError if it may not."""
        venue = self._venue
        request = str(message.get("reqId", ""))
        args, request_header = message.get("args"), message.get("header")
        if op not in _OPS:
            raise BybitError(10404, f"op {op!r} is not found")
        if not channel.authenticated:
            raise BybitError(10003, "Request not authorized")
        if len(request) > _MAX_ID_LENGTH:
            raise BybitError(20003, "reqId is longer than 36 characters")
        if request and request in self._seen:
            raise BybitError(20006, "reqId is duplicate")
        if request:
            self._seen.append(request)
        if (
            not isinstance(args, list)
            or len(args) != 1
            or not isinstance(args[0], dict)
            or not isinstance(request_header, dict)
        ):
            raise BybitError(10001, "Params Error: header and one element of args are required")
        venue.auth.check_timestamp(
            request_header.get("X-BAPI-TIMESTAMP"), request_header.get("X-BAPI-RECV-WINDOW")
        )
        path = _OPS[op]
        endpoint = PRIVATE["POST", path]
        params = Params(args[0])
        allowance, error = venue.limits.count(*allowed(endpoint, path, params), weight(path, params))
        header |= allowance.headers(venue.now())
        if error is not None:
            raise BybitError(10429, error.message)
        return endpoint.handler, params
