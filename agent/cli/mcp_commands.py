"""`tapewire mcp`: the MCP server, by which an assistant reads runs and does research."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile
from agent.cli.console import err
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.config import Config


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mcp")(mcp)


def mcp(
    http: Annotated[
        str, option("--http", "Serve streamable HTTP here instead of standard input.", "HOST:PORT", "stdio")
    ] = "",
    allow_plain: Annotated[
        bool, option("--allow-plain", "With --http: allow an address beyond this machine, without TLS.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Serve assistants by the Model Context Protocol: runs, research, documentation.

    Everything that an assistant tries is counted in the ledger of tries. Commands to the running agent are
    refused unless mcp.commands is true. Over HTTP, clients need a token of `tapewire token`.
    """
    try:
        import mcp as _  # noqa: F401 - is it installed?
    except ModuleNotFoundError:
        raise UsageError("tapewire mcp needs the MCP SDK", hint="pip install 'tapewire[mcp]'") from None
    if allow_plain and not http:
        raise UsageError("--allow-plain is for --http", hint="give both")
    asyncio.run(_serve(load(config), _address(http) if http else None, allow_plain=allow_plain))


def _address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; an IPv6 address is in brackets. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if bracketed else host
    if not (colon and plain and port.isascii() and port.isdigit() and int(port) <= 65_535) or (
        ":" in plain and not bracketed
    ):
        raise UsageError(f"--http {text!r} is no address", hint="write HOST:PORT, such as 127.0.0.1:8620")
    return plain, int(port)


async def _serve(config: Config, address: tuple[str, int] | None, *, allow_plain: bool) -> None:
    from agent.api.api_access import TokenAccess
    from agent.api.api_tokens import TokenRegistry
    from agent.cli.project import strategy_text
    from agent.jobs.job_queue import JobQueue
    from agent.live.log import configure
    from agent.mcp.server import AssistantServer
    from agent.mcp.transports import PATH, listen, sender_of, serve_http, serve_stdio
    from agent.system.clock import WallClock

    at = None if address is None else listen(*address, allow_plain=allow_plain)
    configure(config.log)  # standard error: standard output carries the protocol
    sender = None if at is None else sender_of
    server = AssistantServer(config, JobQueue(config), strategy_text, sender)
    try:
        if at is None:
            await serve_stdio(server)
            return
        host, port = at.getsockname()[:2]
        err.print(f"MCP server at http://{host}:{port}{PATH}; Ctrl-C ends it", soft_wrap=True)
        registry = TokenRegistry(config.api_token_file())
        access = TokenAccess(registry, config.mcp.requests_per_minute, WallClock())
        await serve_http(server, config, access, at)
    finally:
        await server.close()
