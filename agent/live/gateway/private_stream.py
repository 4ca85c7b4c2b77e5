"""The private stream: like the public one, but authenticated before it subscribes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Never

import structlog
from websockets.asyncio.client import ClientConnection

from agent.config.execution import TestnetConfig
from agent.config.live import BybitConfig
from agent.data.kline_messages import Frame
from agent.live.gateway.allowlist import guarded_connect
from agent.live.gateway.private_messages import TOPICS, read_private
from agent.live.gateway.venue_port import PrivateMessage
from agent.live.market_data.bybit_stream import CLOSE_TIMEOUT, BybitStream, KlineHealth, StreamLost
from agent.system.clock import Clock

_log: Final = structlog.get_logger(__name__)


class PrivateStream(BybitStream):
    """One connection.

    `auth_args` makes the arguments of the auth request. `on_message` receives each message, `on_connected` is
    called once the stream is subscribed. `refusal` is the venue's reason if it rejected the authentication.
    """

    def __init__(
        self,
        url: str,
        category: str,
        config: TestnetConfig,
        clock: Clock,
        auth_args: Callable[[], list[object]],
        on_message: Callable[[PrivateMessage], None],
        on_connected: Callable[[], None],
    ) -> None:
        waits = BybitConfig(
            open_timeout=config.open_timeout,
            ack_timeout=config.open_timeout,
            ping_interval=config.ping_interval,
            pong_timeout=config.pong_timeout,
            ban_wait=config.ban_wait,
        )
        super().__init__(
            url, TOPICS, waits, clock, KlineHealth("private stream"), self._take, lambda _: on_connected()
        )
        self.refusal = ""
        self._category = category
        self._auth_args = auth_args
        self._on_message = on_message

    async def _open(self) -> ClientConnection:
        return await guarded_connect(
            self._url,
            open_timeout=self._config.open_timeout / 1000,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,
        )

    async def _subscribe(self, socket: ClientConnection) -> None:
        response = await self._request(socket, self._auth_args(), "auth")
        if not response.success:
            self.refusal = response.ret_msg or "no reason given"
            raise StreamLost(f"not authenticated: {self.refusal}")
        await super()._subscribe(socket)

    async def _watch_silence(self) -> Never:
        # an idle account sends no messages: pongs alone show that the connection is alive
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _take(self, frame: Frame) -> None:
        try:
            messages = read_private(frame.topic, frame.data, self._category)
        except ValueError as error:
            _log.warning("private message corrupt", topic=frame.topic, error=str(error))
            return
        for message in messages:
            self._on_message(message)
