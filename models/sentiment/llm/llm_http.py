"""One HTTP POST with a deadline for the whole exchange and a limit of the response's size.

No proxy, redirect, cookie or environment variable is followed. http.client alone limits the wait for each
read, so a server that sends a byte now and then could hold a thread for ever: here each read gets the time
that is left until the deadline. Connections are kept open for the next request.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

MOST_BYTES: Final = 1 << 20
"""Largest response, headers included."""

_IDLE: Final = 20.0  # seconds that an open connection is kept for
_BLOCK: Final = 1 << 16
_ADDRESSES: Final = ("127.0.0.1", "::1")  # of localhost, whatever DNS returns for it


class ResponseTooLarge(Exception):
    """The response exceeds `MOST_BYTES`."""


class ConnectFailed(OSError):
    """Without a connection, so nothing was sent."""


class HttpResponse(NamedTuple):
    """Status, headers with names in lower case, and body of a response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpServer:
    """Client of one server. Thread-safe: each request has its own connection.

    Args:
        host: Name or address. `localhost` is resolved without DNS.
        port: Port of the server.
        encrypted: Use TLS, with a verified certificate.
    """

    def __init__(self, host: str, port: int, *, encrypted: bool) -> None:
        self._host, self._port = host, port
        self._context = ssl.create_default_context() if encrypted else None
        self._idle: list[tuple[float, _Connection]] = []
        self._active: set[_Wire] = set()
        self._lock = threading.Lock()

    def post(self, path: str, body: bytes, headers: Mapping[str, str], seconds: float) -> HttpResponse:
        """Send one request and return the response, whatever its status.

        Raises TimeoutError if the exchange takes longer than `seconds`, ResponseTooLarge, ConnectFailed, and
        another OSError or http.client.HTTPException if the connection is cut.
        """
        deadline = time.monotonic() + seconds
        if (kept := self._take()) is not None:
            wire = kept.wire
            try:
                return self._exchange(kept, path, body, headers, deadline)
            except ConnectionError:
                # The server may have closed it meanwhile, which doesn't count as a failure of the server
                if wire.received:
                    raise
        return self._exchange(self._connect(deadline), path, body, headers, deadline)

    def close(self) -> None:
        """Close the connections that are kept open, and cut those of requests under way."""
        with self._lock:
            idle, self._idle = self._idle, []
            for wire in self._active:
                wire.cut()
        for _, connection in idle:
            connection.wire.end()

    def _take(self) -> _Connection | None:
        now = time.monotonic()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since, connection = self._idle.pop()
            if now - since < _IDLE:
                return connection
            connection.wire.end()

    def _exchange(
        self,
        connection: _Connection,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        deadline: float,
    ) -> HttpResponse:
        wire = connection.wire
        wire.begin(deadline)
        keep = False
        with self._lock:
            self._active.add(wire)
        try:
            connection.request("POST", path, body, dict(headers))
            with connection.getresponse() as response:
                # in blocks, since a read of the whole allocates as much as the server announces
                content = b"".join(iter(partial(response.read, _BLOCK), b""))
                if response.length:
                    raise http.client.IncompleteRead(content, response.length)
                keep = not response.will_close
            # getheaders joins repeated headers
            named = {name.lower(): value for name, value in response.getheaders()}
            return HttpResponse(response.status, named, content)
        finally:
            with self._lock:
                self._active.remove(wire)
                if keep:
                    self._idle.append((time.monotonic(), connection))
            if not keep:
                wire.end()

    def _connect(self, deadline: float) -> _Connection:
        failure: OSError = ConnectFailed(f"{self._host} has no address")
        for family, address in self._addresses(deadline):
            opened = socket.socket(family, socket.SOCK_STREAM)
            try:
                opened.settimeout(_left(deadline))
                opened.connect(address)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.settimeout(_left(deadline))
                if self._context is not None:
                    opened = self._context.wrap_socket(opened, server_hostname=self._host)
            except (TimeoutError, ssl.SSLCertVerificationError):
                opened.close()
                raise
            except OSError as error:
                opened.close()
                failure = ConnectFailed(error.strerror or str(error))
                continue
            default = 443 if self._context else 80
            return _Connection(self._host, self._port, _Wire(opened), default)
        raise failure

    def _addresses(self, deadline: float) -> list[tuple[socket.AddressFamily, Any]]:
        if self._host == "localhost":
            found = [_numeric(address, self._port) for address in _ADDRESSES]
        else:
            found = _resolve(self._host, self._port, _left(deadline))
        return [(family, address) for family, _, _, _, address in found]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _numeric(address: str, port: int) -> _AddressInfo:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.SOCK_STREAM, 0, "", (address, port)


def _resolve(host: str, port: int, seconds: float) -> list[_AddressInfo]:
    """Resolve a host in a thread of its own, since nothing can interrupt the resolver."""
    results: queue.SimpleQueue[list[_AddressInfo] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            results.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as error:
            results.put(error)
        except UnicodeError:  # a label that is empty or too long
            results.put(OSError("no name of a host"))

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    try:
        found = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if isinstance(found, OSError):
        raise ConnectFailed(found.strerror or str(found))
    return found


class _Wire:
    """Socket whose reads and writes end at a deadline, and whose reads are counted.

    It has the methods that http.client calls.
    """

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._deadline = 0.0
        self.received = 0
        """Bytes of the current response."""

    def begin(self, deadline: float) -> None:
        """Begin an exchange that ends at `deadline`, in seconds of the monotonic clock."""
        self._deadline, self.received = deadline, 0

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self), _BLOCK)

    def receive(self, buffer: Any) -> int:
        """Read into `buffer`; return the number of bytes, 0 at the end. Raises as `HttpServer.post`."""
        self._socket.settimeout(_left(self._deadline))
        count = self._socket.recv_into(buffer)
        self.received += count
        if self.received > MOST_BYTES:
            raise ResponseTooLarge
        return count

    def close(self) -> None:
        """Do nothing: http.client closes a connection before it reads the last response of it."""

    def cut(self) -> None:
        """End a read or write of another thread with an error."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close the socket."""
        self._socket.close()


class _Connection(http.client.HTTPConnection):
    """Connection over a `_Wire`, which it never replaces by a socket of its own.

    `default` is the port that the header Host leaves out.
    """

    def __init__(self, host: str, port: int, wire: _Wire, default: int) -> None:
        super().__init__(host, port)
        self.wire = wire
        self.sock: Any = wire
        self.auto_open = 0
        self.default_port = default


class _Reader(io.RawIOBase):
    """Raw stream over a `_Wire`. To close it leaves the socket open, for the next exchange."""

    def __init__(self, wire: _Wire) -> None:
        super().__init__()
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive(buffer)
