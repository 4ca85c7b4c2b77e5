"""The private stream: as the public one it is subscribed, kept alive and read until it is lost, but signed in first."""

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
from agent.live.market_data.kline_health import KlineHealth
from agent.live.market_data.public_stream import CLOSE_TIMEOUT, Stream, StreamLost
from agent.system.clock import Clock

_log: Final = structlog.get_logger(__name__)


class PrivateStream(Stream):
    """One connection. `sign_in` makes the arguments of the auth request, `hear` takes what is told, `ready` when it begins.

    `refusal` holds the venue's words where it would not let us in.
    """

    def __init__(
        self,
        url: str,
        category: str,
        config: TestnetConfig,
        clock: Clock,
        sign_in: Callable[[], list[object]],
        hear: Callable[[PrivateMessage], None],
        ready: Callable[[], None],
    ) -> None:
        waits = BybitConfig(
            open_timeout=config.open_timeout,
            ack_timeout=config.open_timeout,
            ping_interval=config.ping_interval,
            pong_timeout=config.pong_timeout,
            ban_wait=config.ban_wait,
        )
        super().__init__(
            url, TOPICS, waits, clock, KlineHealth("private stream"), self._take, lambda _: ready()
        )
        self.refusal = ""
        self._category = category
        self._sign_in = sign_in
        self._hear = hear

    async def _open(self) -> ClientConnection:
        return await guarded_connect(
            self._url,
            open_timeout=self._config.open_timeout / 1000,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,
        )

    async def _subscribe(self, socket: ClientConnection) -> None:
        answer = await self._request(socket, self._sign_in(), "auth")
        if not answer.success:
            self.refusal = answer.ret_msg or "no reason given"
            raise StreamLost(f"not signed in: {self.refusal}")
        await super()._subscribe(socket)

    async def _watch_silence(self) -> Never:
        """An account in which nothing happens is silent; the pong alone says that somebody is there."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _take(self, frame: Frame) -> None:
        try:
            messages = read_private(frame.topic, frame.data, self._category)
        except ValueError as error:
            _log.warning("private message corrupt", topic=frame.topic, error=str(error))
            return
        for message in messages:
            self._hear(message)
