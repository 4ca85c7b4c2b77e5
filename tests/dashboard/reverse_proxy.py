"""A reverse proxy that serves the page below a path prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, DummyCookieJar, WSServerHandshakeError, web

_HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "upgrade",
    "host",
)


@asynccontextmanager
async def proxy(
    target: str, prefix: str = "/tapewire", *, strip: bool = True, keep_host: bool = True, **added: str
) -> AsyncIterator[str]:
    """Serve `target` below `prefix` and yield that URL.

    The proxy adds the headers in `added`, with `_` for `-`.
    """

    async def forward(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path_qs
        url = target.rstrip("/") + (path.removeprefix(prefix) if strip else path)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        if keep_host:
            headers["Host"] = request.host
        headers |= {name.replace("_", "-"): value.format(host=request.host) for name, value in added.items()}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _forward_websocket(session, request, url, headers)
        body = await request.read()
        options = {"headers": headers, "data": body or None, "allow_redirects": False}
        async with session.request(request.method, url, **options) as reply:
            kept = [(name, value) for name, value in reply.headers.items() if name.lower() not in _HOP_BY_HOP]
            response = web.Response(status=reply.status, body=await reply.read())
            response.headers.clear()
            for name, value in kept:
                response.headers.add(name, value)
            return response

    async def other_program(_: web.Request) -> web.Response:
        return web.Response(status=404, text="another program's page\n")

    app = web.Application()
    app.router.add_route("*", prefix + "/{path:.*}", forward)
    app.router.add_route("*", "/{path:.*}", other_program)
    runner = web.AppRunner(app)
    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}/"
        finally:
            await runner.cleanup()


async def _forward_websocket(
    session: ClientSession, request: web.Request, url: str, headers: dict[str, str]
) -> web.StreamResponse:
    kept = {name: value for name, value in headers.items() if not name.lower().startswith("sec-websocket")}
    try:
        server = await session.ws_connect(url, headers=kept)
    except WSServerHandshakeError as error:
        return web.Response(status=error.status)
    browser = web.WebSocketResponse()
    await browser.prepare(request)

    async def forward_upwards() -> None:
        async for message in browser:
            await server.send_str(message.data)

    upwards = asyncio.create_task(forward_upwards())
    try:
        async for message in server:
            await browser.send_str(message.data)
    finally:
        upwards.cancel()
        await server.close()
        await browser.close()
    return browser
