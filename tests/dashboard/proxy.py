"""A reverse proxy that serves the page below a path of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, DummyCookieJar, WSServerHandshakeError, web

_OWN = (
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
    """The address below which `target` is served. `added` are headers of the proxy's own, `_` for `-`."""

    async def forward(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path_qs
        url = target.rstrip("/") + (path.removeprefix(prefix) if strip else path)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
        if keep_host:
            headers["Host"] = request.host
        headers |= {name.replace("_", "-"): value.format(host=request.host) for name, value in added.items()}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _stream(session, request, url, headers)
        body = await request.read()
        async with session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _OWN]
            response = web.Response(status=answer.status, body=await answer.read())
            response.headers.clear()
            for name, value in kept:
                response.headers.add(name, value)
            return response

    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=404, text="another program's page\n")

    app = web.Application()
    app.router.add_route("*", prefix + "/{path:.*}", forward)
    app.router.add_route("*", "/{path:.*}", elsewhere)
    runner = web.AppRunner(app)
    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}/"
        finally:
            await runner.cleanup()


async def _stream(
    session: ClientSession, request: web.Request, url: str, headers: dict[str, str]
) -> web.StreamResponse:
    own = {name: value for name, value in headers.items() if not name.lower().startswith("sec-websocket")}
    try:
        behind = await session.ws_connect(url, headers=own)
    except WSServerHandshakeError as error:
        return web.Response(status=error.status)
    front = web.WebSocketResponse()
    await front.prepare(request)

    async def up() -> None:
        async for message in front:
            await behind.send_str(message.data)

    upwards = asyncio.create_task(up())
    try:
        async for message in behind:
            await front.send_str(message.data)
    finally:
        upwards.cancel()
        await behind.close()
        await front.close()
    return front
