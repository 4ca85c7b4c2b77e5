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
    from agent.config.control import split_address

    settled = load(config)
    address = None
    if http:
        try:
            address = split_address(http)
        except ValueError as error:
            raise UsageError(f"--http: {error}") from None
    elif allow_plain:
        raise UsageError("--allow-plain is for --http", hint="give both")
    asyncio.run(_serve(settled, address, allow_plain=allow_plain))


async def _serve(config: Config, address: tuple[str, int] | None, *, allow_plain: bool) -> None:
    from agent.api.api_access import TokenAccess
    from agent.api.api_tokens import TokenRegistry
    from agent.cli.project import strategy_text
    from agent.jobs.job_queue import JobQueue
    from agent.mcp.server import AssistantServer
    from agent.mcp.transports import PATH, listen, sender_of, serve_http, serve_stdio
    from agent.system.clock import WallClock

    at = None if address is None else listen(*address, allow_plain=allow_plain)
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
