"""One WebSocket connection: sends messages in order at their due time and applies the active faults."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import WSMsgType, web

from agent.sandbox.faults import FaultInjector, damage_payload
from agent.system.untrusted import JSON_DECODE_ERRORS

_MAX_WAITING: Final = 50_000
_KINDS: Final = ("drop", "stall", "delay", "duplicate", "reorder", "corrupt", "truncate", "close")

Json = dict[str, Any]


class ClientChannel:
    """Sends messages to one client. Fault patterns match `scope`: ws/public, ws/private or ws/trade."""

    def __init__(self, scope: str, faults: FaultInjector) -> None:
        self.id = uuid.uuid4().hex[:20]
        self.scope = scope
        self.topics: set[str] = set()
        self.authenticated = False
        self._faults = faults
        self._socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # due time and payload; None closes
        self._wake = asyncio.Event()
        self._last_due = 0.0
        self._held: bytes | None = None

    def send(self, message: Json | bytes, topic: str, *, delay: float = 0.0) -> None:
        """Queue a message to be sent after at least `delay` seconds."""
        payload = message if isinstance(message, bytes) else msgspec.json.encode(message)
        drawn = self._faults.draw(f"{self.scope}/{topic}", *_KINDS)
        kinds = {fault.kind for fault in drawn}
        if kinds & {"drop", "stall"}:
            return
        delay += sum(fault.ms for fault in drawn if fault.kind == "delay") / 1000
        payload = damage_payload(payload, drawn)
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
        """Close the connection after all queued messages have been sent."""
        self._queue(None, delay)

    def _queue(self, payload: bytes | None, delay: float) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.clear()
            payload = None  # disconnect a client that reads this slowly
        self._last_due = max(self._last_due, self._loop.time() + delay)
        self._waiting.append((self._last_due, payload))
        self._wake.set()

    async def serve(
        self, request: web.Request, handle_message: Callable[[ClientChannel, Json], None]
    ) -> web.WebSocketResponse:
        """Serve one client until it disconnects, passing each of its messages to `handle_message`."""
        await self._socket.prepare(request)
        pump = asyncio.create_task(self._send_loop(request))
        try:
            async for message in self._socket:
                if message.type is WSMsgType.PING:
                    if not self._faults.draw(f"{self.scope}/pong", "drop", "stall"):
                        await self._socket.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    handle_message(self, self._decode(message.data))
        except ConnectionError:
            pass  # the client disconnected while a message was being handled
        finally:
            pump.cancel()
        return self._socket

    @staticmethod
    def _decode(text: str) -> Json:
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except JSON_DECODE_ERRORS:
            return {}

    async def _send_loop(self, request: web.Request) -> None:
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
