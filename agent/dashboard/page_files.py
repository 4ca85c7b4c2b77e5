"""The files of the page: HTML with its placeholders filled in, scripts, styles and images."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from agent.dashboard.public_address import PublicAddress

_PAGE: Final = Path(__file__).with_name("page")
_CONTENT_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_ASSETS: Final = {
    path.name: path
    for path in (*_PAGE.iterdir(), *(_PAGE / "vendor").iterdir())
    if path.suffix in _CONTENT_TYPES
}


class PageFiles:
    """Serves the files, below the URL that `address` finds for a request."""

    def __init__(self, address: PublicAddress) -> None:
        self._address = address

    def render(
        self, request: web.Request, name: str, markup: dict[str, str], status: int = 200
    ) -> web.Response:
        """Return a page. Each key of `markup` is replaced by its value, `{root}` by the relative root URL."""
        page = (_PAGE / name).read_text(encoding="utf-8")
        for placeholder, html in markup.items():
            page = page.replace(placeholder, html)
        page = page.replace("{root}", self._address.link(request))
        return web.Response(status=status, text=page, content_type="text/html")

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """Return the script, style or image that the URL names."""
        path = _ASSETS.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        headers = {
            "Content-Type": f"{_CONTENT_TYPES[path.suffix]}; charset=utf-8",
            "Cache-Control": "no-cache",
        }
        return web.FileResponse(path, headers=headers)

    async def icon(self, _: web.Request) -> web.StreamResponse:
        """Return the icon."""
        return web.FileResponse(_ASSETS["icon.svg"], headers={"Content-Type": _CONTENT_TYPES[".svg"]})
