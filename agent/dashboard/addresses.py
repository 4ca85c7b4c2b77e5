"""The page's address as its browser sees it: below a path, behind a proxy, under another name.

All addresses that the server returns are relative, so a proxy may serve the page under any path without configuration here.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from aiohttp import web

from agent.config.dashboard import DashboardConfig

_PREFIX: Final = re.compile(r"(/[\w.~-]+)+/?", re.ASCII)
"""A prefix that is safe in a cookie's path."""


class Addresses:
    """Paths and names of requests. Headers of a proxy count only if it is one of `trusted_proxies`."""

    def __init__(self, config: DashboardConfig) -> None:
        self.base = config.base_path
        self._proxies = [ip_network(one, strict=False) for one in config.trusted_proxies]

    def path(self, request: web.Request) -> str:
        """The path of a request below `base_path`, which a proxy may have stripped."""
        return self._below(request.path)

    def link(self, request: web.Request, path: str = "/") -> str:
        """The address of the page's `path`, relative to that of the request."""
        depth = self._below(request.rel_url.raw_path).count("/") - 1
        return ("../" * depth or "./") + path.lstrip("/")

    def here(self, request: web.Request, query: str) -> str:
        """The address of the request itself, with another query."""
        path = self._below(request.rel_url.raw_path)
        return self.link(request, path) + (f"?{query}" if query else "")

    def prefix(self, request: web.Request) -> str:
        """The path under which the browser sees the page, for its cookie: `/` unless a prefix is known."""
        if self.base and request.path.startswith(f"{self.base}/"):
            return f"{self.base}/"
        told = request.headers.get("X-Forwarded-Prefix", "") if self.trusts(request.remote or "") else ""
        return f"{told.rstrip('/')}/" if _PREFIX.fullmatch(told) else "/"

    def host(self, request: web.Request) -> str:
        """Name and port that the browser called."""
        told = request.headers.get("X-Forwarded-Host", "") if self.trusts(request.remote or "") else ""
        return told.rpartition(",")[2].strip() or request.host

    def client(self, request: web.Request) -> str:
        """Address of the client; behind a trusted proxy the last address in X-Forwarded-For that isn't a trusted proxy."""
        address = request.remote or ""
        for one in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
            if not self.trusts(address) or not _is_address(one.strip()):
                break
            address = one.strip()
        return address

    def is_https(self, request: web.Request) -> bool:
        """True if a trusted proxy was called by https."""
        return (
            self.trusts(request.remote or "")
            and request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        )

    def trusts(self, address: str) -> bool:
        """True for the address of a trusted proxy."""
        return _is_address(address) and any(ip_address(address) in network for network in self._proxies)

    def _below(self, path: str) -> str:
        return path[len(self.base) :] if self.base and path.startswith(f"{self.base}/") else path


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
