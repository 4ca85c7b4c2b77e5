"""Connections to the agent's servers are limited in number, in time and by reserved descriptors."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.config.control import ControlConfig
from agent.core.errors import SafetyError
from agent.live.access_token import make_token
from agent.live.control_socket import SOCKET, ControlRequest, control_port, control_socket, send_request
from agent.store.database import Database
from agent.system.listener_config import ListenerConfig
from agent.system.listening_sockets import Connection, Listener, client_key
from agent.system.untrusted import Throttle
from tests.dashboard.dashboard_harness import FakeAgent, client, origin, served
from tests.live.conftest import database
from tests.support.live import until

__all__ = ["database"]


class Echo(asyncio.Protocol):
    """Echo server: a request is a line; `login` logs the client in, `wait` has no response."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not data.endswith(b"\n"):
            return
        self._connection.began()
        if data == b"login\n":
            self._connection.prove()
        if data != b"wait\n":
            self._transport.write(data)
            self._connection.ended()


@asynccontextmanager
async def echo(**limits: Any) -> AsyncIterator[tuple[Listener, int]]:
    listener = Listener(
        "echo", ListenerConfig.model_validate({"connections_per_client": 1_000} | limits), Echo
    )
    port = await listener.listen("127.0.0.1", 0)
    yield listener, port
    await listener.close()


class Client:
    """Client connection of a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readline(), 10)

    async def ended(self) -> bool:
        """Wait until the other side has closed it."""
        with suppress(ConnectionError):
            assert await asyncio.wait_for(self.reader.read(), 10) == b""
        self.writer.close()
        return True


async def connect(port: int, number: int = 1) -> list[Client]:
    return [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(number)]


async def test_a_connection_beyond_the_limit_displaces_the_oldest() -> None:
    async with echo(connections=8) as (listener, port):
        lines = await connect(port, 50)
        assert await lines[-1].send(b"hello\n") == b"hello\n"
        assert (listener.status.open, listener.status.most, listener.status.displaced) == (8, 8, 42)
        for line in lines[:42]:
            assert await line.ended()
        for line in lines[42:]:
            assert await line.send(b"hello\n") == b"hello\n"


async def test_logged_in_connections_are_not_displaced() -> None:
    async with echo(connections=4) as (listener, port):
        (owner,) = await connect(port)
        assert await owner.send(b"login\n") == b"login\n"
        others = await connect(port, 20)
        assert await others[-1].send(b"hello\n") == b"hello\n"
        assert await owner.send(b"hello\n") == b"hello\n"
        for line in others[-3:]:
            assert await line.send(b"login\n") == b"login\n"
        (late,) = await connect(port)
        assert await late.ended()
        assert listener.status.refused == 1
        for line in (owner, *others[-3:]):
            assert await line.send(b"hello\n") == b"hello\n"


async def test_one_address_cannot_take_all_connections() -> None:
    async with echo(connections=8, connections_per_client=4) as (listener, port):
        lines = await connect(port, 6)
        assert await lines[-1].send(b"hello\n") == b"hello\n"
        other = socket.socket()
        other.setblocking(False)
        other.bind(("127.0.0.2", 0))
        await asyncio.get_running_loop().sock_connect(other, ("127.0.0.1", port))
        assert await Client(*await asyncio.open_connection(sock=other)).send(b"hello\n") == b"hello\n"
        assert (listener.status.open, listener.status.displaced) == (5, 2)


async def test_an_incomplete_request_times_out() -> None:
    async with echo(head_timeout="300ms") as (listener, port):
        idle, drip, working = await connect(port, 3)
        working.writer.write(b"wait\n")

        async def dribble() -> None:
            while True:
                drip.writer.write(b"x")
                await asyncio.sleep(0.02)

        dribbling = asyncio.create_task(dribble())
        assert await idle.ended()
        assert await drip.ended()
        dribbling.cancel()
        # a complete request has no time limit
        assert (listener.status.timed_out, listener.status.open) == (2, 1)


async def test_an_idle_connection_times_out() -> None:
    async with echo(head_timeout="200ms", idle_timeout="1ms") as (listener, port):
        (line,) = await connect(port)
        assert await line.send(b"hello\n") == b"hello\n"
        assert await line.ended()
        assert listener.status.timed_out == 1


async def test_connections_are_closed_if_descriptors_run_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = len(os.listdir("/dev/fd"))
    monkeypatch.setattr("agent.system.listening_sockets.raise_descriptor_limit", lambda: 128 + used + 110 + 4)
    async with echo() as (listener, port):
        lines = await connect(port, 100)
        await asyncio.sleep(0.2)  # until the clients' own descriptors are counted
        lines += await connect(port, 10)
        assert await lines[-1].send(b"hello\n") == b"hello\n"
        assert len(os.listdir("/dev/fd")) <= used + 110 + 20
        assert listener.status.exhausted > 0


def test_the_clients_of_one_ipv6_network_count_as_one() -> None:
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff") != client_key("2001:db8:1::1")
    assert client_key("::ffff:192.0.2.1") == client_key("192.0.2.1") == "192.0.2.1"


def test_throttled_log_lines_have_a_count() -> None:
    now = 0.0
    throttle = Throttle(60.0, lambda: now)
    assert [throttle.due() for _ in range(1_000)] == [1] + [0] * 999
    now = 60.0
    assert throttle.due() == 1_000
    assert throttle.total == 1_001


# -- the servers ---------------------------------------------------------------------------------------------


async def test_the_page_works_beside_a_thousand_idle_connections(database: Database) -> None:
    async with served(database, FakeAgent()) as page, client(page.login_url()) as owner:
        async with owner.ws_connect("/api/live", headers=origin(page)) as stream:
            await stream.receive_json()
            with capture_logs() as logged:
                flood = await connect(page.port, 1_000)
                halves = await connect(page.port, 100)
                for line in halves:
                    line.writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half")
            assert page.listener.status.most <= page.config.connections
            async with owner.get("/api/runs") as answer:
                assert answer.status == 200
            async with client(page.login_url()) as another, another.get("/api/runs") as answer:
                assert answer.status == 200
            await stream.send_json({"symbol": "ETHUSDT"})
            while (await asyncio.wait_for(stream.receive_json(), 10)).get("bars", {}).get(
                "symbol"
            ) != "ETHUSDT":
                pass
        assert len(logged) == 1
        for line in (*flood, *halves):
            line.writer.close()


async def test_a_request_without_its_body_times_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.dashboard.server.BODY_TIMEOUT", 0.1)
    async with served(database, FakeAgent(), login="never") as page:
        (line,) = await connect(page.port)
        host = f"127.0.0.1:{page.port}"
        origin_line = f"Origin: http://{host}"
        head = f"POST /login HTTP/1.1\r\nHost: {host}\r\n{origin_line}\r\nContent-Length: 100\r\n\r\ntoken="
        assert b" 408 " in await line.send(head.encode())


async def handler(request: ControlRequest, by: str) -> Any:
    return {"do": request.do, "by": by}


async def test_a_kill_works_beside_a_hundred_idle_connections(tmp_path: Path) -> None:
    listeners: list[Listener] = []
    async with control_socket(tmp_path / SOCKET, handler, listeners=listeners):
        for _ in range(100):
            await asyncio.open_unix_connection(tmp_path / SOCKET)
        answer = await asyncio.to_thread(send_request, tmp_path, ControlRequest("kill"), timeout=10)
        assert answer["do"] == "kill"
        assert listeners[0].status.most <= ControlConfig().connections


async def test_a_connection_with_a_running_command_is_not_displaced(tmp_path: Path) -> None:
    listeners: list[Listener] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: ControlRequest, by: str) -> Any:
        begun.set()
        await go_on.wait()
        return request.do

    async with control_socket(tmp_path / SOCKET, slow, ControlConfig(connections=4), listeners):
        asking = asyncio.create_task(
            asyncio.to_thread(send_request, tmp_path, ControlRequest("kill"), timeout=20)
        )
        await begun.wait()
        for _ in range(20):
            await asyncio.open_unix_connection(tmp_path / SOCKET)
        await until(lambda: listeners[0].status.accepted == 21)
        go_on.set()
        assert await asking == "kill"


async def test_wrong_tokens_at_the_port_are_counted_and_logged_once() -> None:
    listeners: list[Listener] = []
    async with control_port("127.0.0.1", 0, "t" * 40, handler, listeners=listeners) as port:
        with capture_logs() as logged:
            for _ in range(200):
                with pytest.raises(SafetyError):
                    await asyncio.to_thread(
                        send_request, ("127.0.0.1", port), ControlRequest("kill", {}, "wrong"), timeout=10
                    )
        assert listeners[0].status.denied == 200
        assert len(logged) == 1
        await connect(port, 100)
        answer = await asyncio.to_thread(
            send_request, ("127.0.0.1", port), ControlRequest("kill", {}, "t" * 40), timeout=10
        )
        assert answer == {"do": "kill", "by": "token"}


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"GET /\x01 HTTP/9\r\n\r\n"],
)
async def test_malformed_requests_are_counted_and_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    async with served(database, FakeAgent()) as page:
        with capture_logs() as logged:
            for _ in range(100):
                (line,) = await connect(page.port)
                line.writer.write(garbage)
                await line.reader.read()
                line.writer.close()
        assert len(logged) <= 1
        assert caplog.records == []


def test_concurrent_starts_create_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = secrets.token_urlsafe

    def slow(size: int) -> str:
        time.sleep(0.05)  # widens the race
        return random(size)

    monkeypatch.setattr(secrets, "token_urlsafe", slow)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make_token, [tmp_path / "token"] * 8))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["token"]
