"""Control server of the agent: JSON lines over a Unix socket, optionally over a port on loopback.

A request is `{"do": …, "args": {…}}`; a reply has `ok`. The Unix socket identifies its peer by user id. The
port can't, so each request must carry the token (`agent.live.access_token`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from agent.config.control import ControlConfig
from agent.core.errors import (
    ConfigError,
    NoAnswer,
    NotRunning,
    SafetyError,
    TapewireError,
    UsageError,
    error_from_exit_code,
)
from agent.data.text import one_line
from agent.live.access_token import same_token
from agent.system.listening_sockets import Connection, Listener
from agent.system.untrusted import JSON_DECODE_ERRORS

SOCKET: Final = "tapewire.sock"
"""Name of the socket in `live.folder`."""

COMMANDS: Final = (
    *("pause", "resume", "halt", "kill", "flatten", "use-model", "use-strategy", "set-strategy"),
    *("add-sleeve", "remove-sleeve"),
)
"""Commands that an operator can send to the agent."""

_LONGEST_PATH: Final = 107  # of a Unix socket, in bytes
_LINE: Final = 1 << 16
_SENDER: Final = 120  # characters
_DEFAULTS: Final = ControlConfig()
_log: Final = structlog.get_logger(__name__)


class ControlRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request line. `token` is required by the control port, not by the Unix socket.

    `sender` names whom the peer sends the request for; the journal has it before the peer.
    """

    do: str
    args: dict[str, str] = {}
    token: str = ""
    sender: str = ""

    def __repr__(self) -> str:
        return f"ControlRequest({self.do!r}, {self.args!r})"  # hides the token


class ControlReply(msgspec.Struct, frozen=True):
    """A reply line: `result` on success, else the error message and the exit code of its class."""

    ok: bool
    result: Any = None
    error: str = ""
    hint: str = ""
    exit_code: int = 0


Handler = Callable[[ControlRequest, str], Awaitable[Any]]
"""Handles a request from the named peer, such as `uid 1000`; may raise TapewireError."""

Authenticate = Callable[[ControlRequest], str]
"""Returns the name of a request's sender; raises SafetyError if the sender is not authorized."""


@asynccontextmanager
async def control_socket(
    path: Path, handler: Handler, config: ControlConfig = _DEFAULTS, listeners: list[Listener] | None = None
) -> AsyncIterator[None]:
    """Serve at `path`, mode 0600, while the context is open; replace the socket of a killed process.

    The listener is added to `listeners`. Requests of users other than this one and root are refused. Raises
    ConfigError if the path is too long for a socket.
    """
    if len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise ConfigError(
            f"{path}: the path of a socket has at most {_LONGEST_PATH} characters",
            hint="choose a shorter live.folder",
        )
    listener = Listener(
        "control", config, lambda connection: _protocol(connection, _same_user, handler, listener), vital=True
    )
    path.unlink(missing_ok=True)
    listener.listen_unix(path.absolute())
    if listeners is not None:
        listeners.append(listener)
    try:
        yield
    finally:
        await listener.close()
        path.unlink(missing_ok=True)


@asynccontextmanager
async def control_port(
    host: str,
    port: int,
    token: str,
    handler: Handler,
    config: ControlConfig = _DEFAULTS,
    listeners: list[Listener] | None = None,
) -> AsyncIterator[int]:
    """Serve on a port of loopback (0: any free one) for requests that carry `token`; yield the port.

    Raises ConfigError if the port can't be bound.
    """

    def authenticate(request: ControlRequest) -> str:
        if not same_token(request.token, token):
            raise SafetyError(
                "the control port requires the token", hint="it is in the file that control.token_file names"
            )
        return "token"

    listener = Listener(
        "control port",
        config,
        lambda connection: _protocol(connection, lambda _: authenticate, handler, listener),
        vital=True,
    )
    try:
        taken = await listener.listen(host, port)
    except OSError as error:
        raise ConfigError(
            f"control.address: {host}:{port} can't be used: {error.strerror}", hint="choose another port"
        ) from None
    if listeners is not None:
        listeners.append(listener)
    try:
        yield taken
    finally:
        await listener.close()


def _protocol(
    connection: Connection,
    authenticate_peer: Callable[[asyncio.StreamWriter], Authenticate],
    handler: Handler,
    listener: Listener,
) -> asyncio.StreamReaderProtocol:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve_connection(reader, writer, connection, authenticate_peer(writer), handler, listener)

    return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=_LINE), serve)


async def _serve_connection(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    connection: Connection,
    authenticate: Authenticate,
    handler: Handler,
    listener: Listener,
) -> None:
    try:
        while line := await reader.readline():
            connection.began()
            # new connections may displace idle ones, but not one with a command in progress
            connection.proven = True
            try:
                reply = await _handle_line(line, authenticate, handler, listener)
            finally:
                connection.proven = False
                connection.ended()
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):  # disconnected, or a line beyond the limit
        pass
    finally:
        writer.close()


async def _handle_line(
    line: bytes, authenticate: Authenticate, handler: Handler, listener: Listener
) -> ControlReply:
    try:
        request = msgspec.json.decode(line, type=ControlRequest)
        try:
            by = authenticate(request)
        except SafetyError as error:
            listener.deny(error.message)
            return ControlReply(False, None, error.message, error.hint, error.exit_code)
        if request.sender:
            by = f"{one_line(request.sender, _SENDER)}, {by}"
        return ControlReply(True, await handler(request, by))
    except TapewireError as error:
        _log.warning("request refused", reason=error.message)
        return ControlReply(False, None, error.message, error.hint, error.exit_code)
    except JSON_DECODE_ERRORS as error:
        return ControlReply(
            False, None, f"not a request: {error}", 'send e.g. {"do": "status"}', UsageError.exit_code
        )


def _same_user(writer: asyncio.StreamWriter) -> Authenticate:
    """Identify the peer of a Unix socket, which must be this user or root."""
    peer = _peer_uid(writer.get_extra_info("socket"))

    def authenticate(_: ControlRequest) -> str:
        if peer not in (None, 0, os.geteuid()):
            raise SafetyError(
                f"user {peer} may not command this agent", hint="run the command as the agent's user"
            )
        return "control" if peer is None else f"uid {peer}"

    return authenticate


def _peer_uid(sock: socket.socket) -> int | None:
    """Return the peer's user id; None if the system can't provide it, so that only the file's mode
    protects.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return int(uid)


def send_request(where: Path | tuple[str, int], request: ControlRequest, *, timeout: float = 60.0) -> Any:
    """Send one request to the agent and return its result.

    `where` is the agent's `live.folder` or the address of its control port. Raises the error with which the
    agent refused, NotRunning, or NoAnswer if it doesn't reply within `timeout` seconds.
    """
    path = where / SOCKET if isinstance(where, Path) else "{}:{}".format(*where)
    with socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path) if isinstance(where, Path) else where)
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline()
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(
                f"no agent is running: nothing listens at {path}", hint="tapewire run starts one"
            ) from None
        except OSError as error:
            raise NoAnswer(f"the agent at {path} can't be reached: {error}") from None
    with suppress(*JSON_DECODE_ERRORS):
        reply = msgspec.json.decode(line, type=ControlReply)
        if reply.ok:
            return reply.result
        raise error_from_exit_code(reply.exit_code, reply.error, reply.hint)
    raise NoAnswer(f"the agent at {path} closed the connection without a reply")
