"""One WebSocket connection to the public stream: subscribed, kept alive, watched, and read until it is lost.

It ends only by an exception; when to connect again is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final, Never

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from agent.config.bybit import SPOT_ARGS
from agent.config.live import BybitConfig
from agent.core.errors import VenueError
from agent.data.kline_messages import Frame, read_frame
from agent.live.market_data.kline_health import KlineHealth
from agent.system.addresses import is_loopback
from agent.system.clock import Clock
from agent.system.untrusted import JSON_DECODE_ERRORS

_log: Final = structlog.get_logger(__name__)
_PING: Final = '{"op":"ping"}'
_OVERHEAD: Final = 3  # quotes and comma of a topic in `args`
CLOSE_TIMEOUT: Final = 1.0  # a venue that stalls won't answer the closing handshake either


class StreamLost(VenueError):
    """The connection is gone, or as good as gone."""


class HandshakeRefused(VenueError):
    """The venue answered the handshake with an HTTP status; `wait` is how long it wants to be left alone,
    in seconds.
    """

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


def split(topics: Sequence[str], characters: int) -> Iterator[list[str]]:
    """The topics, in order, in as few connections as their `args` allow."""
    part: list[str] = []
    room = characters
    for topic in topics:
        size = len(topic) + _OVERHEAD
        if part and size > room:
            yield part
            part, room = [], characters
        part.append(topic)
        room -= size
    if part:
        yield part


class Stream:
    """A connection for `topics` of one category. `on_data` hears each frame that has a topic, one after the
    other.

    `on_ready` hears, when all requests were answered, which topics the venue has accepted.
    """

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        config: BybitConfig,
        clock: Clock,
        health: KlineHealth,
        on_data: Callable[[Frame], Awaitable[None]],
        on_ready: Callable[[Sequence[str]], None],
    ) -> None:
        self._url = url
        self._topics = topics
        self._config = config
        self._clock = clock
        self._health = health
        self._on_data = on_data
        self._on_ready = on_ready
        self._per_request = (
            min(config.args_per_request, SPOT_ARGS) if url.endswith("/spot") else config.args_per_request
        )
        self._answer: asyncio.Future[Frame] | None = None
        self._awaited = 0  # number of the request that waits for its answer
        self._ponged = asyncio.Event()
        self.opened_at: float | None = None  # of the event loop's clock
        self._heard_at = 0.0
        self._delivering = False  # a taker that makes us wait is no fault of the venue

    async def run(self, *companions: Callable[[], Coroutine[Any, Any, None]]) -> Never:
        """Run until the connection is lost; `companions` live as long as it does.

        Raises StreamLost or HandshakeRefused; what `on_data` and the companions raise comes in an
        ExceptionGroup.
        """
        async with await self._connect() as socket:
            self.opened_at = asyncio.get_running_loop().time()
            self._health.connects += 1
            try:
                async with asyncio.TaskGroup() as tasks:
                    for companion in companions:
                        tasks.create_task(companion())
                    tasks.create_task(self._keep_alive(socket))
                    tasks.create_task(self._watch_silence())
                    tasks.create_task(self._subscribe(socket))
                    await self._read(socket)
            except* (StreamLost, ConnectionClosed) as lost:
                # Several tasks may find out at once; the first one's words are enough.
                first = lost.exceptions[0]
                reason = first.message if isinstance(first, StreamLost) else f"connection closed: {first}"
        # Before Python 3.13 a TaskGroup that is ending with errors swallows a cancellation that comes
        # meanwhile.
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError
        raise StreamLost(reason)

    async def _connect(self) -> ClientConnection:
        try:
            return await self._open()
        except InvalidStatus as error:
            response = error.response
            wait = 0.0
            if response.status_code == HTTPStatus.FORBIDDEN:
                wait = self._config.ban_wait / 1000
            elif response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                asked = response.headers.get("Retry-After", "")
                wait = (
                    max(
                        self._config.throttle_wait,
                        min(float(asked) * 1000, self._config.ban_wait) if asked.isdecimal() else 0,
                    )
                    / 1000
                )
            raise HandshakeRefused(f"{self._url} answered HTTP {response.status_code}", wait) from error
        except (OSError, TimeoutError, EOFError, WebSocketException) as error:
            raise StreamLost(f"no connection to {self._url}: {str(error) or type(error).__name__}") from error

    async def _open(self) -> ClientConnection:
        return await connect(
            self._url,
            open_timeout=self._config.open_timeout / 1000,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,  # the venue's own ping, below, also proves that its application is alive
            proxy=None if is_loopback(self._url) else True,
        )

    async def _read(self, socket: ClientConnection) -> Never:
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        while True:
            message = await socket.recv(decode=False)
            self._health.messages += 1
            self._health.bytes += len(message)
            self._health.last_message_at = self._clock.now()
            try:
                frame = read_frame(message)
            except JSON_DECODE_ERRORS as error:
                self._health.corrupt += 1
                _log.warning("message corrupt", error=str(error), size=len(message))
                continue
            if frame.topic:
                self._delivering = True
                await self._on_data(frame)
                self._delivering = False
                self._heard_at = loop.time()
            elif frame.is_pong:
                self._ponged.set()
            elif self._answers(frame):
                continue
            else:
                self._health.unknown += 1
                _log.info("message unknown", op=frame.op, ret_msg=frame.ret_msg)

    def _answers(self, frame: Frame) -> bool:
        """Whether the frame answers the request that waits; the venue leaves the number out of some
        errors.
        """
        if self._answer is None or self._answer.done() or frame.success is None:
            return False
        if frame.req_id and str(frame.req_id) != str(self._awaited):
            return False
        self._answer.set_result(frame)
        return True

    async def _keep_alive(self, socket: ClientConnection) -> Never:
        while True:
            await asyncio.sleep(self._config.ping_interval / 1000)
            self._ponged.clear()
            await socket.send(_PING)
            try:
                async with asyncio.timeout(self._config.pong_timeout / 1000):
                    await self._ponged.wait()
            except TimeoutError:
                if not self._delivering:
                    raise StreamLost(f"no pong in {self._config.pong_timeout} ms") from None

    async def _watch_silence(self) -> Never:
        """Quiet markets push little, so this is far slower than the pong; it finds a venue that only
        plays pong.
        """
        loop = asyncio.get_running_loop()
        limit = self._config.silence_timeout / 1000
        self._heard_at = loop.time()
        while self._delivering or self._heard_at + limit > loop.time():
            await asyncio.sleep(max(self._heard_at + limit - loop.time(), limit / 10))
        raise StreamLost(f"no kline in {self._config.silence_timeout} ms")

    async def _subscribe(self, socket: ClientConnection) -> None:
        accepted: list[str] = []
        # What was refused before goes alone: it may be known by now, but must not spoil others again.
        doubtful = [[topic] for topic in self._topics if topic in self._health.rejected]
        fresh = [topic for topic in self._topics if topic not in self._health.rejected]
        requests = [
            fresh[i : i + self._per_request] for i in range(0, len(fresh), self._per_request)
        ] + doubtful
        while requests:
            topics = requests.pop(0)
            answer = await self._request(socket, topics)
            if answer.success or (len(topics) == 1 and "already subscribed" in (answer.ret_msg or "")):
                accepted += topics
                self._health.rejected.difference_update(topics)
            elif len(topics) > 1:
                # One bad topic spoils the whole request, and the answer's wording is not documented: halve
                # until it is alone.
                middle = len(topics) // 2
                requests[:0] = [topics[:middle], topics[middle:]]
            else:
                self._health.rejected.update(topics)
                self._health.failed(f"the venue refuses {topics[0]}: {answer.ret_msg}", self._clock.now())
                _log.error("topic refused", topic=topics[0], ret_msg=answer.ret_msg)
        self._on_ready(accepted)

    async def _request(
        self, socket: ClientConnection, args: Sequence[object], op: str = "subscribe"
    ) -> Frame:
        """Ask and wait for the answer. One request at a time, so that an answer without a number has only
        one owner.
        """
        self._awaited += 1
        self._answer = asyncio.get_running_loop().create_future()
        await socket.send(
            msgspec.json.encode({"req_id": str(self._awaited), "op": op, "args": args}).decode()
        )
        try:
            async with asyncio.timeout(self._config.ack_timeout / 1000):
                return await self._answer
        except TimeoutError:
            asked = "a subscription" if op == "subscribe" else op
            raise StreamLost(f"no answer to {asked} in {self._config.ack_timeout} ms") from None
