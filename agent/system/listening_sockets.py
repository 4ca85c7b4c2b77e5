"""Listening sockets with limits, for the dashboard, the metrics server and the control socket.

asyncio's own servers accept connections up to the last file descriptor and then log an error on every turn of
the event loop. A `Listener` accepts connections itself, so its limits apply before a byte is read:

* At most `connections` are open, and `connections_per_client` from one address. A new connection beyond that
  displaces the oldest one that has not logged in; if all have logged in, the new connection is closed.
* A connection that completes no request head within `head_timeout`, or sends no further request within
  `idle_timeout`, is closed.
* Some of the process's descriptors are reserved for market data, store and feeds: a new connection that
  would use them is handled as if the listener were full.

Closed connections are counted in `Listener.status` and logged at most once a minute.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from agent.system.descriptors import DESCRIPTORS, MOST, raise_descriptor_limit
from agent.system.listener_config import ListenerConfig
from agent.system.untrusted import Throttle

_BACKLOG: Final = 128
_AT_ONCE: Final = 32  # accepted in one turn of the event loop
_CLOSING: Final = 2  # displaced connections that still hold a descriptor while the next is accepted
_SHUTDOWN: Final = 0.5  # seconds for open requests to finish when their server is closed
_PAUSE: Final = 0.1  # seconds without accepting after the system ran out of descriptors
_RESERVE: Final = 128  # descriptors that listeners leave to the rest of the process, at most half of all
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log: Final = structlog.get_logger(__name__)


class ListenerStatus(msgspec.Struct):
    """Counts since the listener started."""

    name: str
    open: int = 0
    most: int = 0  # open at the same time
    accepted: int = 0
    displaced: int = 0  # closed in favour of a newer one
    refused: int = 0  # closed at once
    timed_out: int = 0  # closed because no request arrived in time
    exhausted: int = 0  # times when descriptors ran short
    denied: int = 0  # requests with a wrong token, a foreign Host or Origin
    limited: int = 0  # requests beyond the rate limit of a token
    slow: int = 0  # streams that were closed because their client reads too slowly


class Connection(asyncio.Protocol):
    """Accepted connection: forwards everything to the server's own protocol and enforces the timeouts."""

    def __init__(self, listener: Listener, sock: socket.socket, client: str) -> None:
        self.client = client
        self.proven = False
        self._listener = listener
        self._sock = sock
        self._inner: asyncio.BaseProtocol | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._requests = 0  # in progress
        self._between = False  # two requests
        self._unsent = 0
        self._closed = False
        self._wait(listener.config.head_timeout)

    @property
    def busy(self) -> bool:
        """True while a request is in progress."""
        return self._requests > 0

    def prove(self) -> None:
        """Protect the connection from displacement: its client has logged in."""
        self.proven = True

    def began(self) -> None:
        """A request head is complete: the rest of the request has no time limit."""
        self._requests += 1
        self._stop_timer()

    def ended(self) -> None:
        """The response is complete."""
        self._requests -= 1
        if not self._requests and not self._closed:
            self._between = True
            self._wait(self._listener.config.idle_timeout)

    def drop(self) -> None:
        """Close at once and discard unsent data."""
        if self._closed:
            return
        self._closed = True
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()
        self._listener.forget(self, self._transport)

    # -- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:  # displaced before its protocol was made
            self._transport.abort()
            return
        self._listener.transports[transport] = self
        self._inner = self._listener.make_protocol(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._between and not self._requests:
            self._between = False
            self._wait(self._listener.config.head_timeout)
        if isinstance(self._inner, asyncio.Protocol):
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if isinstance(self._inner, asyncio.Protocol) else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._stop_timer()
        self._listener.forget(self, self._transport)
        self._listener.released(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    # -- time ------------------------------------------------------------------------------------------------

    def _wait(self, milliseconds: int) -> None:
        self._stop_timer()
        self._unsent = 0
        self._timer = asyncio.get_running_loop().call_later(milliseconds / 1000, self._late, milliseconds)

    def _late(self, milliseconds: int) -> None:
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if unsent and unsent != self._unsent:  # a slow reader that still reads
            self._wait(milliseconds)
            self._unsent = unsent
            return
        self._listener.status.timed_out += 1
        self.drop()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener:
    """Accepts connections for one server within the limits of `config`.

    `make_protocol` is called for each connection; `serve` provides it for HTTP. `vital` marks the listener of
    commands, which may use most of the descriptors that the others leave free.
    """

    def __init__(
        self,
        name: str,
        config: ListenerConfig,
        make_protocol: Callable[[Connection], asyncio.BaseProtocol] | None = None,
        *,
        vital: bool = False,
    ) -> None:
        self.config = config
        self.make_protocol = make_protocol or (lambda _: asyncio.Protocol())
        self.status = ListenerStatus(name)
        self.transports: dict[asyncio.BaseTransport, Connection] = {}
        self._vital = vital
        self._connections: dict[Connection, None] = {}  # in the order of their arrival
        self._closing: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._adopting: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._highest = MOST
        self._closed = Throttle()
        self._exhausted = Throttle()
        self._denied = Throttle()
        self._limited = Throttle()

    async def listen(self, host: str, port: int) -> int:
        """Listen at all addresses of `host`; return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets: list[socket.socket] = []
        try:
            for family, kind, protocol, _, address in dict.fromkeys(infos):
                if family == socket.AF_INET6 and sockets and not socket.has_dualstack_ipv6():
                    continue  # `localhost` has an IPv6 address on machines without IPv6 too
                sock = socket.socket(family, kind, protocol)
                sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address[0], port, *address[2:]))
                sock.listen(_BACKLOG)
                port = port or sock.getsockname()[1]
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        self._start(sockets)
        return port

    def listen_unix(self, path: Path) -> None:
        """Listen at `path`, created with mode 0600. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(before)
        self._start([sock])

    async def close(self) -> None:
        """Stop listening and close the connections without a request; the server ends those in progress."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()
        for connection in list(self._connections):
            if not connection.busy:
                connection.drop()
        if self._adopting:
            await asyncio.wait(self._adopting)

    def deny(self, reason: str, client: str = "") -> None:
        """Count a refused request; log at most once a minute."""
        self.status.denied += 1
        if count := self._denied.due():
            name = self.status.name
            _log.warning("requests refused", listener=name, reason=reason, client=client, count=count)

    def limit(self, client: str) -> None:
        """Count a request beyond a rate limit; log at most once a minute."""
        self.status.limited += 1
        if count := self._limited.due():
            _log.warning("too many requests", listener=self.status.name, client=client, count=count)

    def connection(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        """Return the connection of a transport; None once it is lost."""
        return None if transport is None else self.transports.get(transport)

    async def serve(self, app: web.Application) -> web.AppRunner:
        """Return a runner whose server receives this listener's connections; `make_protocol` is not used."""
        runner = web.AppRunner(app, access_log=None, logger=self._http_log(), shutdown_timeout=_SHUTDOWN)
        await runner.setup()
        server = runner.server
        if server is not None:
            self.make_protocol = lambda _: server()
        return runner

    def _http_log(self) -> logging.Logger:
        """Return a logger that counts malformed requests, for each of which aiohttp would log a traceback."""

        def passes(record: logging.LogRecord) -> bool:
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, HttpProcessingError):
                self.deny("malformed request")
                return False
            return True

        log = logging.Logger(f"{__name__}.{self.status.name}", logging.WARNING)
        log.parent = logging.getLogger()
        log.addFilter(passes)
        return log

    def middleware(self) -> Middleware:
        """Return a middleware that marks when a request begins and ends; it must come before all others."""

        @web.middleware
        async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self.connection(request.transport)
            if connection is None:
                return await handler(request)
            connection.began()
            try:
                return await handler(request)
            finally:
                connection.ended()

        return timed

    def forget(self, connection: Connection, transport: asyncio.BaseTransport | None) -> None:
        """Remove a connection that is about to close."""
        self._connections.pop(connection, None)
        self.status.open = len(self._connections)
        if transport is not None:
            self.transports.pop(transport, None)

    def released(self, connection: Connection) -> None:
        """Count down the descriptors in use, once a connection has released its own."""
        self._closing.discard(connection)
        DESCRIPTORS.held -= 1

    # -- accepting -------------------------------------------------------------------------------------------

    def _start(self, sockets: Sequence[socket.socket]) -> None:
        limit = raise_descriptor_limit()
        reserve = min(_RESERVE, limit // 2)
        self._highest = limit - (reserve // 4 if self._vital else reserve)
        for sock in sockets:
            sock.setblocking(False)
            self._sockets.append(sock)
        self._watch()

    def _watch(self) -> None:
        self._resume = None
        for sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if len(self._closing) >= _CLOSING:
                return  # called again in the next turn of the event loop, when their descriptors are free
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error)
                return
            sock.setblocking(False)
            self.status.accepted += 1
            client = client_key(str(address[0])) if isinstance(address, tuple) else ""
            DESCRIPTORS.held += 1
            if not self._make_room(client, DESCRIPTORS.used(sock.fileno()) - self._highest):
                sock.close()
                DESCRIPTORS.held -= 1
                continue
            connection = Connection(self, sock, client)
            self._connections[connection] = None
            self.status.open = len(self._connections)
            self.status.most = max(self.status.most, self.status.open)
            task = asyncio.get_running_loop().create_task(_adopt(connection, sock))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    def _make_room(self, client: str, excess: int) -> bool:
        """Return whether a new connection may stay.

        If a limit is reached, or `excess` descriptors too many are in use, others must be displaced for it.
        """
        mine = [one for one in self._connections if one.client == client]
        if excess > 0:
            self.status.exhausted += 1
            among = list(self._connections)
        elif client and len(mine) >= self.config.connections_per_client:
            among = mine
        elif len(self._connections) >= self.config.connections:
            among = list(self._connections)
        else:
            return True
        oldest = [one for one in among if not one.proven][: max(excess, 1)]
        self.status.displaced += len(oldest)
        self.status.refused += not oldest
        for one in oldest:
            self._closing.add(one)
            one.drop()
        if count := self._closed.due():
            _log.warning(
                "connections are closed: too many are open",
                listener=self.status.name,
                open=self.status.open,
                closed=count,
                reason="file descriptors run short" if excess > 0 else "limit reached",
            )
        return bool(oldest)

    def _pause(self, error: OSError) -> None:
        """Pause accepting: a failing accept would otherwise be retried in a busy loop."""
        self.status.exhausted += 1
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        self._resume = loop.call_later(_PAUSE, self._watch)
        if count := self._exhausted.due():
            name = self.status.name
            _log.error("no connection can be accepted", listener=name, reason=error.strerror, times=count)


async def _adopt(connection: Connection, sock: socket.socket) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
    except OSError as error:  # the client disconnected meanwhile
        sock.close()
        connection.connection_lost(error)


def client_key(address: str) -> str:
    """Return the key of a client in limits: its IPv4 address or IPv6 /64 network, usually one client's."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((int(parsed), 64), strict=False).network_address)
    return str(parsed)
