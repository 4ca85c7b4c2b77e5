"""One WebSocket connection to Bybit: subscribe, keep alive, and read until it is lost. The caller
reconnects.
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
from agent.live.interfaces.producer import Health
from agent.system.addresses import is_loopback
from agent.system.clock import Clock
from agent.system.untrusted import JSON_DECODE_ERRORS

_log: Final = structlog.get_logger(__name__)
_PING: Final = '{"op":"ping"}'
_OVERHEAD: Final = 3  # quotes and comma of a topic in `args`
_READ_AHEAD: Final = 1_024
"""Messages read from the socket before the first is handled. Many symbols move at one instant, and with the
default of 16 their bars would reach the core in as many small batches, each with a commit.
"""
CLOSE_TIMEOUT: Final = 1.0  # a venue that stalls doesn't complete the closing handshake either


class StreamLost(VenueError):
    """The connection ended or stopped responding."""


class HandshakeRejected(VenueError):
    """The venue rejected the handshake with an HTTP status; reconnect after `wait` seconds at the
    earliest.
    """

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class KlineHealth(Health):
    """`Health` of klines; bars and messages are counted over all connections."""

    missing: int = 0  # bars in the gaps
    backfilled: int = 0  # bars taken from the history
    corrupt: int = 0  # unreadable messages, and bars with impossible values
    unknown: int = 0  # messages of an unknown kind
    stale: int = 0  # states of an open bar that came after newer ones
    ahead: int = 0  # rejected bars and messages from the future
    withheld: int = 0  # states and bars outside the price band, held back until confirmed
    # ms from the venue's timestamp of the last message to its arrival; negative if this clock is behind
    lag: int = 0
    rejected: set[str] = msgspec.field(default_factory=set)  # topics that the venue rejected


def split_topics(topics: Sequence[str], characters: int) -> Iterator[list[str]]:
    """Distribute the topics, in order, over connections whose `args` have at most `characters` characters
    each.
    """
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


class BybitStream:
    """One connection for `topics` of one category.

    `on_data` is awaited for each frame with a topic, in order. `on_ready` is called with the accepted topics
    after the venue has responded to all subscriptions.
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
        self._response: asyncio.Future[Frame] | None = None
        self._request_id = 0  # of the pending request
        self._ponged = asyncio.Event()
        self.opened_at: float | None = None  # of the event loop's clock
        self._last_frame_at = 0.0
        self._delivering = False  # while `on_data` runs, time-outs are not the venue's fault

    async def run(self, *companions: Callable[[], Coroutine[Any, Any, None]]) -> Never:
        """Run until the connection is lost; the coroutines of `companions` run beside it and are cancelled
        with it.

        Raises StreamLost or HandshakeRejected. Exceptions of `on_data` and the companions are raised in an
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
                # Several tasks may notice the loss at once; report the first
                first = lost.exceptions[0]
                reason = first.message if isinstance(first, StreamLost) else f"connection closed: {first}"
        # Before Python 3.13, a TaskGroup that ends with errors swallows a cancellation that arrives meanwhile
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
                retry_after = response.headers.get("Retry-After", "")
                wait = (
                    max(
                        self._config.throttle_wait,
                        min(float(retry_after) * 1000, self._config.ban_wait)
                        if retry_after.isdecimal()
                        else 0,
                    )
                    / 1000
                )
            raise HandshakeRejected(f"{self._url} answered HTTP {response.status_code}", wait) from error
        except (OSError, TimeoutError, EOFError, WebSocketException) as error:
            raise StreamLost(f"no connection to {self._url}: {str(error) or type(error).__name__}") from error

    async def _open(self) -> ClientConnection:
        return await connect(
            self._url,
            open_timeout=self._config.open_timeout / 1000,
            close_timeout=CLOSE_TIMEOUT,
            # `_keep_alive` uses Bybit's own ping, which also proves that the application behind the socket
            # is alive
            ping_interval=None,
            max_queue=_READ_AHEAD,
            proxy=None if is_loopback(self._url) else True,
        )

    async def _read(self, socket: ClientConnection) -> Never:
        loop = asyncio.get_running_loop()
        self._last_frame_at = loop.time()
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
                self._last_frame_at = loop.time()
            elif frame.is_pong:
                self._ponged.set()
            elif self._is_response(frame):
                continue
            else:
                self._health.unknown += 1
                _log.info("message unknown", op=frame.op, ret_msg=frame.ret_msg)

    def _is_response(self, frame: Frame) -> bool:
        """Return whether the frame is the response to the pending request; some errors carry no request
        id.
        """
        if self._response is None or self._response.done() or frame.success is None:
            return False
        if frame.req_id and str(frame.req_id) != str(self._request_id):
            return False
        self._response.set_result(frame)
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
        """Detect a venue that still sends pongs but no data; quiet markets push little, so the limit is
        long.
        """
        loop = asyncio.get_running_loop()
        limit = self._config.silence_timeout / 1000
        self._last_frame_at = loop.time()
        while self._delivering or self._last_frame_at + limit > loop.time():
            await asyncio.sleep(max(self._last_frame_at + limit - loop.time(), limit / 10))
        raise StreamLost(f"no kline in {self._config.silence_timeout} ms")

    async def _subscribe(self, socket: ClientConnection) -> None:
        accepted: list[str] = []
        # A topic rejected earlier may be accepted by now; it goes alone, so that it can't fail a whole
        # request
        rejected = [[topic] for topic in self._topics if topic in self._health.rejected]
        fresh = [topic for topic in self._topics if topic not in self._health.rejected]
        size = self._per_request
        requests = [fresh[i : i + size] for i in range(0, len(fresh), size)] + rejected
        while requests:
            topics = requests.pop(0)
            response = await self._request(socket, topics)
            if response.success or (len(topics) == 1 and "already subscribed" in (response.ret_msg or "")):
                accepted += topics
                self._health.rejected.difference_update(topics)
            elif len(topics) > 1:
                # One bad topic fails the whole request, and the format of the error isn't documented: bisect
                middle = len(topics) // 2
                requests[:0] = [topics[:middle], topics[middle:]]
            else:
                self._health.rejected.update(topics)
                self._health.failed(f"Bybit rejects {topics[0]}: {response.ret_msg}", self._clock.now())
                _log.error("topic rejected", topic=topics[0], ret_msg=response.ret_msg)
        self._on_ready(accepted)

    async def _request(
        self, socket: ClientConnection, args: Sequence[object], op: str = "subscribe"
    ) -> Frame:
        """Send a request and wait for its response; one at a time, so that a response without an id is
        unambiguous.
        """
        self._request_id += 1
        self._response = asyncio.get_running_loop().create_future()
        request = {"req_id": str(self._request_id), "op": op, "args": args}
        await socket.send(msgspec.json.encode(request).decode())
        try:
            async with asyncio.timeout(self._config.ack_timeout / 1000):
                return await self._response
        except TimeoutError:
            what = "a subscription" if op == "subscribe" else op
            raise StreamLost(f"no answer to {what} in {self._config.ack_timeout} ms") from None
