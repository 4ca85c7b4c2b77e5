"""The control socket: this machine, this user, JSON lines. A request is `{"do": …, "args": {…}}`, an answer has `ok`."""

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

from agent.errors import ConfigError, SafetyError, TapewireError, UsageError, told

SOCKET: Final = "tapewire.sock"
"""Its name in `live.folder`."""

_LONGEST_PATH: Final = 107  # of a Unix socket, in bytes
_LINE: Final = 1 << 16
_log: Final = structlog.get_logger(__name__)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line to the agent."""

    do: str
    args: dict[str, str] = {}


class Reply(msgspec.Struct, frozen=True):
    """One line back: `result` where all went well, else the error in a person's words and the exit code that it means."""

    ok: bool
    result: Any = None
    error: str = ""
    hint: str = ""
    exit_code: int = 0


Handler = Callable[[Request, str], Awaitable[Any]]
"""Answers a request of somebody (`uid 1000`); may raise TapewireError."""


@asynccontextmanager
async def control_socket(path: Path, handler: Handler) -> AsyncIterator[None]:
    """Listen at `path`, mode 0600, as long as the context lasts; a socket that a killed process left there is replaced.

    Only this user and root are heard. Raises ConfigError for a path too long for a socket.
    """
    if len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise ConfigError(
            f"{path}: a socket's path has at most {_LONGEST_PATH} characters", hint="choose a shorter live.folder"
        )
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(
            lambda reader, writer: _serve(reader, writer, handler), path.absolute(), limit=_LINE
        )
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    peer = _peer(writer.get_extra_info("socket"))
    try:
        while line := await reader.readline():
            reply = await _answer(line, peer, handler)
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):  # gone, or a line beyond the limit
        pass
    finally:
        writer.close()


async def _answer(line: bytes, peer: int | None, handler: Handler) -> Reply:
    try:
        if peer not in (None, 0, os.geteuid()):
            raise SafetyError(f"user {peer} may not command this agent", hint="run the command as the agent's user")
        request = msgspec.json.decode(line, type=Request)
        return Reply(True, await handler(request, "control" if peer is None else f"uid {peer}"))
    except TapewireError as error:
        _log.warning("request refused", reason=error.message)
        return Reply(False, None, error.message, error.hint, error.exit_code)
    except msgspec.MsgspecError as error:
        return Reply(False, None, f"no request: {error}", 'write {"do": "status"}', UsageError.exit_code)


def _peer(sock: socket.socket) -> int | None:
    """User id of the other end; None where the system doesn't tell, and the file's mode has to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def ask(folder: Path, request: Request, *, timeout: float = 60.0) -> Any:
    """Send one request to the agent whose `live.folder` this is; returns its result.

    Raises what the agent refused with, or TapewireError where none is running or none answers within `timeout` seconds.
    """
    path = folder / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline()
        except (FileNotFoundError, ConnectionRefusedError):
            raise TapewireError(f"no agent is running: nobody listens at {path}", hint="tapewire run starts one") from None
        except OSError as error:
            raise TapewireError(f"the agent at {path} can't be reached: {error}") from None
    with suppress(msgspec.MsgspecError):
        reply = msgspec.json.decode(line, type=Reply)
        if reply.ok:
            return reply.result
        raise told(reply.exit_code, reply.error, reply.hint)
    raise TapewireError(f"the agent at {path} went away without an answer")
