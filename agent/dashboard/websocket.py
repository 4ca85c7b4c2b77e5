"""The live connection to a browser: the whole state first, then changes, as fast as the browser reads them.

Each browser has a task that fetches the changes since its last message. A slow browser gets fewer messages,
not older ones. A browser that stops reading is disconnected. The core is not involved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from agent.dashboard.agent_adapter import AgentAdapter
from agent.dashboard.dashboard_state import NO_VERSION
from agent.system.untrusted import JSON_DECODE_ERRORS

INTERVAL: Final = 0.1
"""Minimum seconds between two messages to one browser."""

SEND_TIMEOUT: Final = 10.0
"""Seconds after which a browser that doesn't read a message is disconnected."""

_HEALTH_EVERY: Final = 10  # messages
_MAX_BYTES: Final = 1_000  # of a message from a browser

encode: Final = msgspec.json.Encoder(decimal_format="number").encode
"""Encode as JSON; NaN becomes null."""


class _Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A browser's message: the symbol whose candles it shows."""

    symbol: str


class BrowserSession:
    """The connection of one browser. It ends when `is_authorized` returns False."""

    def __init__(self, agent: AgentAdapter, request: web.Request, is_authorized: Callable[[], bool]) -> None:
        self._agent = agent
        self._request = request
        self._is_authorized = is_authorized
        self._symbol = ""
        self._sent = self._bars_sent = NO_VERSION  # versions
        self._run = ""

    async def serve(self) -> web.WebSocketResponse:
        """Send the state and its changes until the connection ends."""
        socket = web.WebSocketResponse(heartbeat=15.0, max_msg_size=_MAX_BYTES, compress=False)
        await socket.prepare(self._request)
        sending = asyncio.create_task(self._send_changes(socket))
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or (symbol := decode_selection(message.data)) is None:
                    break
                self._symbol, self._bars_sent = symbol, NO_VERSION
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            await socket.close()
        return socket

    def abort(self) -> None:
        """Disconnect at once, without sending what is buffered."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _send_changes(self, socket: web.WebSocketResponse) -> None:
        tick = 0
        while not socket.closed:
            with_health = tick % _HEALTH_EVERY == 0
            tick += 1
            if with_health and not self._is_authorized():
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"log in first")
                return
            message = self._message(with_health=with_health)
            if message:
                try:
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await socket.send_str(encode(message).decode())
                except (TimeoutError, ConnectionError):
                    self.abort()
                    return
            await asyncio.sleep(INTERVAL)

    def _message(self, *, with_health: bool) -> dict[str, Any]:
        state = self._agent.state
        if state is None:
            return {"waiting": True} if with_health else {}
        message: dict[str, Any] = {}
        if self._run != state.header.run:
            self._run, self._sent, self._bars_sent = state.header.run, NO_VERSION, NO_VERSION
            message["head"] = state.header
        symbols = state.header.symbols
        if self._symbol not in symbols:
            self._symbol = symbols[0]
        if self._sent < state.version or self._bars_sent == NO_VERSION:
            message |= state.changes(self._sent, self._symbol, self._bars_sent)
            self._sent = self._bars_sent = state.version
        if with_health:
            message["health"] = self._agent.health()
        return message


def decode_selection(text: str) -> str | None:
    """Return the symbol that a browser's message selects; None if the message is malformed."""
    try:
        return msgspec.json.decode(text, type=_Selection).symbol
    except JSON_DECODE_ERRORS:
        return None
