"""The control socket: this machine, this user, JSON lines. A request is `{"do": …, "args": {…}}`, an answer has `ok`.

A Unix socket knows who asks. A port on loopback doesn't: there each request carries the token (`agent.live.access_token`).
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
from agent.live.access_token import same_token
from agent.system.listening_sockets import Connection, Listener
from agent.system.untrusted import JSON_DECODE_ERRORS

SOCKET: Final = "tapewire.sock"
"""Its name in `live.folder`."""

COMMANDS: Final = ("pause", "resume", "halt", "kill", "flatten", "use-model")
"""What a person may tell the agent."""

_LONGEST_PATH: Final = 107  # of a Unix socket, in bytes
_LINE: Final = 1 << 16
_DEFAULTS: Final = ControlConfig()
_log: Final = structlog.get_logger(__name__)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line to the agent; `token` is asked for by a port, not by the Unix socket."""

    do: str
    args: dict[str, str] = {}
    token: str = ""

    def __repr__(self) -> str:
        return f"Request({self.do!r}, {self.args!r})"  # without the token


class Reply(msgspec.Struct, frozen=True):
    """One line back: `result` where all went well, else the error in a person's words and the exit code that it means."""

    ok: bool
    result: Any = None
    error: str = ""
    hint: str = ""
    exit_code: int = 0


Handler = Callable[[Request, str], Awaitable[Any]]
"""Answers a request of somebody (`uid 1000`); may raise TapewireError."""

Who = Callable[[Request], str]
"""Names who sends a request; raises SafetyError for somebody who may not."""


@asynccontextmanager
async def control_socket(
    path: Path, handler: Handler, config: ControlConfig = _DEFAULTS, listeners: list[Listener] | None = None
) -> AsyncIterator[None]:
    """Listen at `path`, mode 0600, as long as the context lasts; a socket that a killed process left there is replaced.

    The listener is added to `listeners`. Only this user and root are heard. Raises ConfigError for a path too long for a socket.
    """
    if len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise ConfigError(
            f"{path}: a socket's path has at most {_LONGEST_PATH} characters",
            hint="choose a shorter live.folder",
        )
    listener = Listener(
        "control", config, lambda connection: _protocol(connection, _user, handler, listener), vital=True
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
    """The same on a port of loopback (0: a free one) for whoever knows the `token`; gives the port.

    Raises ConfigError where the port can't be had.
    """

    def who(request: Request) -> str:
        if not same_token(request.token, token):
            raise SafetyError(
                "the control port asks for the token", hint="it is in the file that control.token_file names"
            )
        return "token"

    listener = Listener(
        "control port",
        config,
        lambda connection: _protocol(connection, lambda _: who, handler, listener),
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
    who_of: Callable[[asyncio.StreamWriter], Who],
    handler: Handler,
    listener: Listener,
) -> asyncio.StreamReaderProtocol:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(reader, writer, connection, who_of(writer), handler, listener)

    return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=_LINE), serve)


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    connection: Connection,
    who: Who,
    handler: Handler,
    listener: Listener,
) -> None:
    try:
        while line := await reader.readline():
            connection.began()
            # no newcomer ends a command; a connection that waits for the next one gives way
            connection.proven = True
            try:
                reply = await _answer(line, who, handler, listener)
            finally:
                connection.proven = False
                connection.ended()
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):  # gone, or a line beyond the limit
        pass
    finally:
        writer.close()


async def _answer(line: bytes, who: Who, handler: Handler, listener: Listener) -> Reply:
    try:
        request = msgspec.json.decode(line, type=Request)
        try:
            by = who(request)
        except SafetyError as error:
            listener.deny(error.message)
            return Reply(False, None, error.message, error.hint, error.exit_code)
        return Reply(True, await handler(request, by))
    except TapewireError as error:
        _log.warning("request refused", reason=error.message)
        return Reply(False, None, error.message, error.hint, error.exit_code)
    except JSON_DECODE_ERRORS as error:
        return Reply(False, None, f"no request: {error}", 'write {"do": "status"}', UsageError.exit_code)


def _user(writer: asyncio.StreamWriter) -> Who:
    """Whose Unix socket the other end is: this user's, or root's."""
    peer = _peer(writer.get_extra_info("socket"))

    def who(_: Request) -> str:
        if peer not in (None, 0, os.geteuid()):
            raise SafetyError(
                f"user {peer} may not command this agent", hint="run the command as the agent's user"
            )
        return "control" if peer is None else f"uid {peer}"

    return who


def _peer(sock: socket.socket) -> int | None:
    """User id of the other end; None where the system doesn't tell, and the file's mode has to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return int(uid)


def ask(where: Path | tuple[str, int], request: Request, *, timeout: float = 60.0) -> Any:
    """Send one request to the agent whose `live.folder` this is, or whose control port; returns its result.

    Raises what the agent refused with, NotRunning, or NoAnswer where none answers within `timeout` seconds.
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
                f"no agent is running: nobody listens at {path}", hint="tapewire run starts one"
            ) from None
        except OSError as error:
            raise NoAnswer(f"the agent at {path} can't be reached: {error}") from None
    with suppress(*JSON_DECODE_ERRORS):
        reply = msgspec.json.decode(line, type=Reply)
        if reply.ok:
            return reply.result
        raise error_from_exit_code(reply.exit_code, reply.error, reply.hint)
    raise NoAnswer(f"the agent at {path} went away without an answer")
