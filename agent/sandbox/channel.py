"""One WebSocket connection: messages leave in order, when they are due, and as the faults in force leave them."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import WSMsgType, web

from agent.sandbox.faults import Faults, spoil
from agent.system.untrusted import JSON_DECODE_ERRORS

_MOST_WAITING: Final = 50_000
_KINDS: Final = ("drop", "stall", "delay", "duplicate", "reorder", "corrupt", "truncate", "close")

Json = dict[str, Any]


class Channel:
    """Sends to one client. `place` is what faults know it by: ws/public, ws/private or ws/trade."""

    def __init__(self, place: str, faults: Faults) -> None:
        self.id = uuid.uuid4().hex[:20]
        self.place = place
        self.topics: set[str] = set()
        self.authenticated = False
        self._faults = faults
        self._socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # when due, and what; None closes
        self._wake = asyncio.Event()
        self._last_due = 0.0
        self._held: bytes | None = None

    def send(self, message: Json | bytes, topic: str, *, delay: float = 0.0) -> None:
        """Queue a message, to leave `delay` seconds from now at the earliest."""
        payload = message if isinstance(message, bytes) else msgspec.json.encode(message)
        strikes = self._faults.strike(f"{self.place}/{topic}", *_KINDS)
        kinds = {fault.kind for fault in strikes}
        if kinds & {"drop", "stall"}:
            return
        delay += sum(fault.ms for fault in strikes if fault.kind == "delay") / 1000
        payload = spoil(payload, strikes)
        if "reorder" in kinds and self._held is None:
            self._held = payload
            return
        self._queue(payload, delay)
        if "duplicate" in kinds:
            self._queue(payload, delay)
        if self._held is not None:
            self._queue(self._held, delay)
            self._held = None
        if "close" in kinds:
            self.close(delay)

    def close(self, delay: float = 0.0) -> None:
        """Cut the connection once everything queued so far has left."""
        self._queue(None, delay)

    def _queue(self, payload: bytes | None, delay: float) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            payload = None  # a reader this slow is cut off
        self._last_due = max(self._last_due, self._loop.time() + delay)
        self._waiting.append((self._last_due, payload))
        self._wake.set()

    async def serve(
        self, request: web.Request, receive: Callable[[Channel, Json], None]
    ) -> web.WebSocketResponse:
        """Speak with one client until it goes; `receive` is called with each of its messages."""
        await self._socket.prepare(request)
        pump = asyncio.create_task(self._pump(request))
        try:
            async for message in self._socket:
                if message.type is WSMsgType.PING:
                    if not self._faults.strike(f"{self.place}/pong", "drop", "stall"):
                        await self._socket.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    receive(self, self._decode(message.data))
        except ConnectionError:
            pass  # the client went away while we answered it
        finally:
            pump.cancel()
        return self._socket

    @staticmethod
    def _decode(text: str) -> Json:
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except JSON_DECODE_ERRORS:
            return {}

    async def _pump(self, request: web.Request) -> None:
        while True:
            await self._wake.wait()
            while self._waiting:
                due, payload = self._waiting[0]
                if (ahead := due - self._loop.time()) > 0:
                    await asyncio.sleep(ahead)
                self._waiting.popleft()
                if payload is None:
                    if request.transport is not None:
                        request.transport.close()
                    return
                try:
                    await self._socket.send_frame(payload, WSMsgType.TEXT)
                except ConnectionError:
                    return
            self._wake.clear()
