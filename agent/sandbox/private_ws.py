"""The private WebSocket: a client signs in once, and hears of its orders, executions, positions and wallet."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.sandbox.auth import Authenticator
from agent.sandbox.channel import Channel
from agent.sandbox.desk import Leg
from agent.sandbox.errors import Refusal
from agent.sandbox.executions import Execution
from agent.sandbox.orders import VenueOrder
from agent.sandbox.shapes_account import (
    execution_shape,
    fast_execution_shape,
    order_shape,
    position_shape,
    wallet_shape,
)

if TYPE_CHECKING:
    from agent.sandbox.account import Account

ACK_DELAY_S: Final = 0.025
PUSH_DELAY_S: Final = 0.015
"""A push leaves after the answer to the request that caused it."""
_TOPICS: Final = ("order", "execution", "execution.fast", "position", "wallet", "greeks", "dcp")
_CATEGORIES: Final = ("linear", "spot", "inverse", "option", "future")
Json = dict[str, Any]


class PrivateStreams:
    """The account's audience. `account` is set once, before the first client."""

    account: Account

    def __init__(self, auth: Authenticator, now: Callable[[], int]) -> None:
        self._auth = auth
        self._now = now
        self._channels: set[Channel] = set()

    def receive(self, channel: Channel, message: Json) -> None:
        """Answer one request."""
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
            self._sign_in(channel, message)
        elif not channel.authenticated:
            self._answer(channel, message, "Request not authorized")
        elif op in ("subscribe", "unsubscribe"):
            topics = [str(arg) for arg in args] if isinstance(args, list) else []
            unknown = next((topic for topic in topics if not _known(topic)), None)
            if unknown is not None:
                self._answer(channel, message, f"error:handler not found,topic:{unknown}")
                return
            if op == "subscribe":
                channel.topics.update(topics)
                self._channels.add(channel)
            else:
                channel.topics.difference_update(topics)
            self._answer(channel, message, "", success=True)
        else:
            self._answer(channel, message, "error:invalid op")

    def forget(self, channel: Channel) -> None:
        """A client has gone."""
        self._channels.discard(channel)

    def _sign_in(self, channel: Channel, message: Json) -> None:
        try:
            self._auth.socket(message.get("args"))
        except Refusal as refusal:
            self._answer(channel, message, refusal.message)
            channel.close(ACK_DELAY_S)
            return
        channel.authenticated = True
        self._answer(channel, message, "", success=True)

    def _answer(self, channel: Channel, message: Json, text: str, *, success: bool = False) -> None:
        answer = {"success": success, "ret_msg": text, "op": message.get("op", ""), "conn_id": channel.id}
        if "req_id" in message:
            answer["req_id"] = message["req_id"]
        channel.send(answer, "ack", delay=ACK_DELAY_S)

    # -- pushes ------------------------------------------------------------------------------------------------------

    def on_order(self, order: VenueOrder) -> None:
        """Push the order as it stands."""
        self._push("order", order.category, lambda: order_shape(order, self.account))

    def on_execution(self, execution: Execution) -> None:
        """Push an execution, on its fast topic too."""
        self._push("execution", execution.category, lambda: execution_shape(execution))
        if execution.kind == "Trade":
            self._push("execution.fast", execution.category, lambda: fast_execution_shape(execution))

    def on_position(self, leg: Leg) -> None:
        """Push a position."""
        self._push("position", "linear", lambda: position_shape(leg, self.account, stream=True))

    def on_wallet(self) -> None:
        """Push the wallet."""
        self._push("wallet", "", lambda: wallet_shape(self.account))

    def _push(self, topic: str, category: str, shape: Callable[[], Json]) -> None:
        names = {topic, f"{topic}.{category}"} if category else {topic}
        data: Json | None = None
        for channel in self._channels:
            for name in sorted(names & channel.topics):
                data = shape() if data is None else data
                message = {"id": uuid.uuid4().hex, "topic": name, "creationTime": self._now(), "data": [data]}
                channel.send(msgspec.json.encode(message), name, delay=PUSH_DELAY_S)


def _known(topic: str) -> bool:
    name, _, category = topic.rpartition(".")
    return topic in _TOPICS or (name in _TOPICS and category in _CATEGORIES)
