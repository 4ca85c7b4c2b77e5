"""The page's URL as the browser sees it: behind a reverse proxy, below a path, or under another host name.

All URLs in responses are relative, so a proxy can serve the page below any path without configuration here.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from aiohttp import web

from agent.config.services import DashboardConfig

_PREFIX: Final = re.compile(r"(/[\w.~-]+)+/?", re.ASCII)
"""A path prefix that is safe in the Path attribute of a cookie."""


class PublicAddress:
    """Paths, host and client of a request. Proxy headers count only if sent by one of `trusted_proxies`."""

    def __init__(self, config: DashboardConfig) -> None:
        self._base = config.base_path
        self._proxies = [ip_network(one, strict=False) for one in config.trusted_proxies]

    def path(self, request: web.Request) -> str:
        """Return the request's path without `base_path`, which a proxy may have stripped already."""
        return self._strip_base(request.path)

    def link(self, request: web.Request, path: str = "/") -> str:
        """Return the URL of `path`, relative to the URL of the request."""
        depth = self._strip_base(request.rel_url.raw_path).count("/") - 1
        return ("../" * depth or "./") + path.lstrip("/")

    def link_to_self(self, request: web.Request, query: str) -> str:
        """Return the relative URL of the request itself, with another query string."""
        path = self._strip_base(request.rel_url.raw_path)
        return self.link(request, path) + (f"?{query}" if query else "")

    def cookie_path(self, request: web.Request) -> str:
        """Return the path below which the browser sees the page, or `/` if no prefix is known."""
        if self._base and request.path.startswith(f"{self._base}/"):
            return f"{self._base}/"
        prefix = self._proxy_header(request, "X-Forwarded-Prefix")
        return f"{prefix.rstrip('/')}/" if _PREFIX.fullmatch(prefix) else "/"

    def host(self, request: web.Request) -> str:
        """Return the host name and port that the browser requested."""
        return self._proxy_header(request, "X-Forwarded-Host").rpartition(",")[2].strip() or request.host

    def client(self, request: web.Request) -> str:
        """Return the client's IP address.

        Behind a trusted proxy it is the last address in X-Forwarded-For that isn't a trusted proxy.
        """
        address = request.remote or ""
        for one in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
            if not self._trusts(address) or not _is_address(one.strip()):
                break
            address = one.strip()
        return address

    def is_https(self, request: web.Request) -> bool:
        """Return True if a trusted proxy received the request over HTTPS."""
        return self._proxy_header(request, "X-Forwarded-Proto").lower() == "https"

    def _proxy_header(self, request: web.Request, name: str) -> str:
        return request.headers.get(name, "") if self._trusts(request.remote or "") else ""

    def _trusts(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._proxies)

    def _strip_base(self, path: str) -> str:
        return path[len(self._base) :] if self._base and path.startswith(f"{self._base}/") else path


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
