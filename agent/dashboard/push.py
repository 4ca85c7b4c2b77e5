"""What a browser that looks on is sent: the whole picture, then what changes, as fast as it takes it in and no faster.

Each browser has a task of its own, which asks the picture for what came since its last message. One that is slow is told less
often, not later and later; one that takes nothing any more is dropped. The core knows nothing of any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from agent.dashboard.live import Agent
from agent.dashboard.picture import NOTHING
from agent.system.untrusted import JSON_DECODE_ERRORS

TICK: Final = 0.1
"""Seconds between two messages to one browser, at least."""

PATIENCE: Final = 10.0
"""Seconds after which a browser that has not taken a message is dropped."""

_HEALTH_EVERY: Final = 10  # ticks
_LONGEST: Final = 1_000  # bytes of a message from a browser

encode: Final = msgspec.json.Encoder(decimal_format="number").encode
"""JSON; NaN is null."""


class _Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which symbol's candles the browser shows."""

    symbol: str


class Viewer:
    """One browser: `serve` it until it goes away or is no longer `allowed`, or `drop` it."""

    def __init__(self, agent: Agent, request: web.Request, allowed: Callable[[], bool]) -> None:
        self._agent = agent
        self._request = request
        self._allowed = allowed
        self._symbol = ""
        self._seen = self._bars_seen = NOTHING
        self._run = ""

    async def serve(self) -> web.WebSocketResponse:
        """Push until it ends; what it sends is only which symbol it wants to see."""
        socket = web.WebSocketResponse(heartbeat=15.0, max_msg_size=_LONGEST, compress=False)
        await socket.prepare(self._request)
        pushing = asyncio.create_task(self._push(socket))
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or not self._wish(message.data):
                    break
        finally:
            pushing.cancel()
            await asyncio.wait({pushing})
            await socket.close()
        return socket

    def drop(self) -> None:
        """Let it go at once, whatever it has not taken yet."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _wish(self, text: str) -> bool:
        try:
            wish = msgspec.json.decode(text, type=_Wish)
        except JSON_DECODE_ERRORS:
            return False
        self._symbol, self._bars_seen = wish.symbol, NOTHING
        return True

    async def _push(self, socket: web.WebSocketResponse) -> None:
        tick = 0
        while not socket.closed:
            with_health = tick % _HEALTH_EVERY == 0
            tick += 1
            if with_health and not self._allowed():
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"log in first")
                return
            message = self._message(with_health=with_health)
            if message:
                try:
                    async with asyncio.timeout(PATIENCE):
                        await socket.send_str(encode(message).decode())
                except (TimeoutError, ConnectionError):
                    self.drop()
                    return
            await asyncio.sleep(TICK)

    def _message(self, *, with_health: bool) -> dict[str, Any]:
        picture = self._agent.picture
        if picture is None:
            return {"waiting": True} if with_health else {}
        message: dict[str, Any] = {}
        if self._run != picture.head.run:
            self._run, self._seen, self._bars_seen = picture.head.run, NOTHING, NOTHING
            message["head"] = picture.head
        symbols = picture.head.symbols
        if self._symbol not in symbols:
            self._symbol = symbols[0]
        if self._seen < picture.version or self._bars_seen == NOTHING:
            message |= picture.changes(self._seen, self._symbol, self._bars_seen)
            self._seen = self._bars_seen = picture.version
        if with_health:
            message["health"] = self._agent.health()
        return message
