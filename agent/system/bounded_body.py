"""Reads the body of an HTTP response up to a limit, whatever its headers announce."""

from __future__ import annotations

import aiohttp

from agent.core.errors import VenueError


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body, decompressed. Raises VenueError beyond `most` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise VenueError(f"the response has more than {most:,} bytes")
    return bytes(body)
