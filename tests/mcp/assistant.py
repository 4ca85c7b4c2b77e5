"""Starts `tapewire mcp` as a user's client does, and talks to it with the SDK's own client."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import CallToolResult, Implementation

from tests.conftest import ROOT
from tests.support.live import PATIENCE

NAME = "test desk"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@asynccontextmanager
async def assistant(folder: Path, *args: str) -> AsyncIterator[Client]:
    """Connect to a server that runs in `folder`, over standard input and output."""
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "tapewire", "mcp", *args], env=environment(), cwd=folder
    )
    who = Implementation(name=NAME, version="1")
    async with Client(command, client_info=who, read_timeout_seconds=PATIENCE) as client:
        yield client


@asynccontextmanager
async def http_server(folder: Path, *args: str) -> AsyncIterator[str]:
    """Serve streamable HTTP on a free port; yields the URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tapewire", "mcp", "--http", "127.0.0.1:0", *args),
        cwd=folder,
        env=environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while not (found := re.search(r"http://\S+/mcp", (await process.stderr.readline()).decode())):
                pass
        yield found[0]
    finally:
        process.terminate()
        await process.communicate()


@asynccontextmanager
async def http_assistant(url: str, token: str, mode: str = "auto") -> AsyncIterator[Client]:
    """Connect to a server over HTTP with a token."""
    headers = {"Authorization": f"Bearer {token}"}
    async with create_mcp_http_client(headers) as http:
        who = Implementation(name=NAME, version="1")
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, client_info=who, mode=mode, read_timeout_seconds=PATIENCE) as client:
            yield client


def answer(result: CallToolResult) -> Any:
    """Return what a tool answered."""
    assert not result.is_error, result.content
    return result.structured_content


def refusal(result: CallToolResult) -> str:
    """Return why a tool refused, which is one line."""
    assert result.is_error
    (content,) = result.content
    assert content.type == "text"
    assert "\n" not in content.text
    return content.text
