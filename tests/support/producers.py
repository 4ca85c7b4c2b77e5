"""A venue on loopback, a manual clock, a collector of events, and fixtures for them."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from aiohttp import WSMsgType, web

from agent.config.live import LogConfig
from agent.core.events import MINUTE_MS, Event, Gap, Kline, News
from agent.live.log import configure
from tests.support.feed_server import FeedServer

T0 = 1_790_409_600_000
PATIENCE = 60.0  # seconds until a waiting test fails, on a machine that does much else


@dataclass
class ManualClock:
    """A clock that advances only if a test sets it."""

    time: int = T0

    def now(self) -> int:
        return self.time


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


class EventCollector:
    """Consumer that collects the emitted events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def bars(self) -> list[str]:
        """Closed bars as `3`, gaps as `3-5`, without open bars."""
        words = []
        for event in self.events:
            if isinstance(event, Gap):
                words.append(f"{(event.start - T0) // MINUTE_MS}-{(event.end - T0) // MINUTE_MS}")
            elif isinstance(event, Kline) and event.confirm:
                words.append(str((event.start - T0) // MINUTE_MS))
        return words

    @property
    def marks(self) -> list[Kline]:
        return [event for event in self.events if isinstance(event, Kline) and not event.confirm]

    @property
    def news(self) -> list[News]:
        return [event for event in self.events if isinstance(event, News)]

    async def expect(self, *bars: str) -> None:
        """Wait until exactly these closed bars and gaps have been emitted."""
        try:
            await until(lambda: len(self.bars) >= len(bars))
        finally:
            assert self.bars == list(bars)


def start_of(number: int) -> int:
    return T0 + number * MINUTE_MS


def stream_row(number: int, *, confirm: bool = True, **other: Any) -> dict[str, Any]:
    """Return a bar as the venue sends it."""
    row = {
        "start": start_of(number),
        "end": start_of(number + 1) - 1,
        "interval": "1",
        "open": "100",
        "close": "101.5",
        "high": "102",
        "low": "99.5",
        "volume": "7.316",
        "turnover": "740.2",
        "confirm": confirm,
        "timestamp": start_of(number + 1) - 1,
    }
    return row | other


def push(
    number: int, *, symbol: str = "BTCUSDT", ts: int | None = None, confirm: bool = True, **other: Any
) -> dict[str, Any]:
    """Return the message of one bar, sent at its close, or half a second after its open if still open."""
    ts = ts or (start_of(number + 1) if confirm else start_of(number) + 500)
    return {
        "topic": f"kline.1.{symbol}",
        "type": "snapshot",
        "ts": ts,
        "data": [stream_row(number, confirm=confirm, **other)],
    }


@dataclass(eq=False)
class Client:
    """A client connection, seen from the venue."""

    socket: web.WebSocketResponse
    request: web.Request
    topics: list[str] = field(default_factory=list)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[list[str]] = field(default_factory=list)

    async def push(self, *messages: dict[str, Any] | str | bytes) -> None:
        for message in messages:
            match message:
                case str():
                    await self.socket.send_str(message)
                case bytes():
                    await self.socket.send_bytes(message)
                case _:
                    await self.socket.send_json(message)

    async def close(self) -> None:
        await self.socket.close()

    def abort(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class Venue:
    """The part of Bybit that the kline producer uses, with configurable faults."""

    def __init__(self) -> None:
        self.time = T0
        self.history: dict[str, set[int]] = {
            "BTCUSDT": set()
        }  # numbers of the closed bars in the REST history
        self.handshakes: list[int] = []  # HTTP statuses for the next handshakes
        self.handshake_headers: dict[str, str] = {}
        self.close_at_once = 0  # number of new connections to close at once
        self.answers: list[web.Response | dict[str, Any]] = []  # for the next REST requests
        self.unknown: set[str] = set()  # topics that are refused
        self.unresponsive = False  # accepts messages and never responds
        self.omits_request_id = False  # responds without req_id, as the venue does for some errors
        self.clients: list[Client] = []
        self.attempts = 0
        self.pings = 0
        self.queries: list[dict[str, str]] = []
        self.url = ""

    async def client(self, number: int) -> Client:
        """Return the connection with this number, from 1, once it has subscribed."""
        await until(lambda: len(self.clients) >= number)
        client = self.clients[number - 1]
        async with asyncio.timeout(PATIENCE):
            await client.subscribed.wait()
        return client

    async def on_history(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.queries.append(query)
        if self.answers:
            answer = self.answers.pop(0)
            return answer if isinstance(answer, web.Response) else web.json_response(answer)
        first, last = int(query["start"]), int(query["end"])
        closed = self.history[query["symbol"]]
        rows = [
            [str(start_of(n)), "100", "102", "99.5", "101.5", "7.316", "740.2"]
            for n in sorted({*closed, (self.time - T0) // MINUTE_MS}, reverse=True)  # including the open bar
            if first <= start_of(n) <= last
        ][: int(query["limit"])]
        result = {"symbol": query["symbol"], "category": query["category"], "list": rows}
        return web.json_response(
            {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": self.time}
        )

    async def on_stream(self, request: web.Request) -> web.StreamResponse:
        self.attempts += 1
        if self.handshakes:
            return web.Response(status=self.handshakes.pop(0), headers=self.handshake_headers)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.close_at_once:
            self.close_at_once -= 1
            await socket.close()
            return socket
        client = Client(socket, request)
        self.clients.append(client)
        async for message in socket:
            if message.type is not WSMsgType.TEXT or self.unresponsive:
                continue
            await self._answer(client, message.json())
        return socket

    async def _answer(self, client: Client, message: dict[str, Any]) -> None:
        answer = {
            "success": True,
            "ret_msg": "",
            "conn_id": "c",
            "req_id": message.get("req_id", ""),
            "op": message["op"],
        }
        if message["op"] == "ping":
            self.pings += 1
            answer["ret_msg"] = "pong"
        else:
            client.requests.append(message["args"])
            bad = sorted(self.unknown.intersection(message["args"]))
            if bad:
                answer |= {"success": False, "ret_msg": f"error:handler not found,topic:{bad[0]}"}
            else:
                client.topics += message["args"]
            if self.omits_request_id:
                del answer["req_id"]
        await client.socket.send_json(answer)
        if client.topics:
            client.subscribed.set()


@pytest.fixture
async def venue() -> AsyncIterator[Venue]:
    """A venue on loopback, REST and WebSocket on one port."""
    venue = Venue()
    app = web.Application()
    app.router.add_get("/v5/market/kline", venue.on_history)
    app.router.add_get("/v5/public/{category}", venue.on_stream)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield venue
    await runner.cleanup()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def collector() -> EventCollector:
    return EventCollector()


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Any], asyncio.Task[None]]]:
    """Start coroutines as background tasks and cancel them after the test; an exception fails the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(coroutine: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(coroutine))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    done, pending = await asyncio.wait(tasks, timeout=PATIENCE) if tasks else (set(), set())
    assert not pending, "a cancelled task goes on"
    for task in done:
        if not task.cancelled() and (error := task.exception()):
            raise error


@pytest.fixture
async def feed_server() -> AsyncIterator[FeedServer]:
    """A feed server on loopback."""
    server = FeedServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
def captured() -> Iterator[Callable[[], str]]:
    """Return the log output so far, in the format for terminals."""
    stream = io.StringIO()
    configure(LogConfig(format="console"), stream)
    yield stream.getvalue
    structlog.reset_defaults()
    logging.basicConfig(force=True)
