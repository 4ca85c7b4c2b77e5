"""Private WebSocket: pushes orders, executions, positions and wallet to authenticated clients."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.sandbox.account_events import AccountExecution
from agent.sandbox.account_json import (
    execution_json,
    fast_execution_json,
    order_json,
    position_json,
    wallet_json,
)
from agent.sandbox.auth import Authenticator
from agent.sandbox.bybit_errors import BybitError
from agent.sandbox.category_book import Leg
from agent.sandbox.channel import ClientChannel
from agent.sandbox.sandbox_order import SandboxOrder

if TYPE_CHECKING:
    from agent.sandbox.unified_account import UnifiedAccount

ACK_DELAY_S: Final = 0.025
PUSH_DELAY_S: Final = 0.015
"""Delay of a push, so that it follows the response to the request that caused it."""
_TOPICS: Final = ("order", "execution", "execution.fast", "position", "wallet", "greeks", "dcp")
_CATEGORIES: Final = ("linear", "spot", "inverse", "option", "future")
Json = dict[str, Any]


class PrivateStreams:
    """Pushes account changes. `account` is set once, before the first client connects."""

    account: UnifiedAccount

    def __init__(self, auth: Authenticator, now: Callable[[], int]) -> None:
        self._auth = auth
        self._now = now
        self._channels: set[ClientChannel] = set()

    def handle_message(self, channel: ClientChannel, message: Json) -> None:
        op, args = message.get("op"), message.get("args")
        if op == "ping":
            pong = {
                "req_id": message.get("req_id", ""),
                "op": "pong",
                "args": [str(self._now())],
                "conn_id": channel.id,
            }
            channel.send(pong, "pong")
        elif op == "auth":
            self._authenticate(channel, message)
        elif not channel.authenticated:
            self._respond(channel, message, "Request not authorized")
        elif op in ("subscribe", "unsubscribe"):
            topics = [str(arg) for arg in args] if isinstance(args, list) else []
            unknown = next((topic for topic in topics if not _is_known(topic)), None)
            if unknown is not None:
                self._respond(channel, message, f"error:handler not found,topic:{unknown}")
                return
            if op == "subscribe":
                channel.topics.update(topics)
                self._channels.add(channel)
            else:
                channel.topics.difference_update(topics)
            self._respond(channel, message, "", success=True)
        else:
            self._respond(channel, message, "error:invalid op")

    def disconnect(self, channel: ClientChannel) -> None:
        self._channels.discard(channel)

    def _authenticate(self, channel: ClientChannel, message: Json) -> None:
        try:
            self._auth.check_socket_auth(message.get("args"))
        except BybitError as error:
            self._respond(channel, message, error.message)
            channel.close(ACK_DELAY_S)
            return
        channel.authenticated = True
        self._respond(channel, message, "", success=True)

    def _respond(self, channel: ClientChannel, message: Json, text: str, *, success: bool = False) -> None:
        response = {"success": success, "ret_msg": text, "op": message.get("op", ""), "conn_id": channel.id}
        if "req_id" in message:
            response["req_id"] = message["req_id"]
        channel.send(response, "ack", delay=ACK_DELAY_S)

    # -- pushes ---------------------------------------------------------------------------------------------

    def on_order(self, order: SandboxOrder) -> None:
        self._push("order", order.category, lambda: order_json(order, self.account))

    def on_execution(self, execution: AccountExecution) -> None:
        """Push an execution, also on the topic execution.fast."""
        self._push("execution", execution.category, lambda: execution_json(execution))
        if execution.kind == "Trade":
            self._push("execution.fast", execution.category, lambda: fast_execution_json(execution))

    def on_position(self, leg: Leg) -> None:
        self._push("position", "linear", lambda: position_json(leg, self.account, stream=True))

    def on_wallet(self) -> None:
        self._push("wallet", "", lambda: wallet_json(self.account))

    def _push(self, topic: str, category: str, build: Callable[[], Json]) -> None:
        names = {topic, f"{topic}.{category}"} if category else {topic}
        data: Json | None = None
        for channel in self._channels:
            for name in sorted(names & channel.topics):
                data = build() if data is None else data
                message = {"id": uuid.uuid4().hex, "topic": name, "creationTime": self._now(), "data": [data]}
                channel.send(msgspec.json.encode(message), name, delay=PUSH_DELAY_S)


def _is_known(topic: str) -> bool:
    name, _, category = topic.rpartition(".")
    return topic in _TOPICS or (name in _TOPICS and category in _CATEGORIES)
