"""Who may see the page: every request passes here first.

* `Host` must be an address or a known name, so that a foreign site that points its name at this machine (DNS rebinding) gets
  nothing.
* What changes something, and the WebSocket, must come from this very page: `Origin` is the host that was called. A browser always
  sends it there, and other sites can't forge it.
* A browser logs in, with the token or by a link that works once, and gets a cookie that scripts can't read, that no other site's
  request carries, and that ends by itself. `login = "never"` leaves that out on loopback, but not for requests of a proxy.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from agent.config.dashboard import DashboardConfig
from agent.dashboard.addresses import Addresses
from agent.dashboard.login import Attempts, Links, Sessions, Token
from agent.system.clock import Clock
from agent.system.host_header import is_loopback_host, known_host
from agent.system.listening_sockets import client_key

OPEN_PATHS: Final = ("/login", "/logout", "/assets/style.css", "/assets/icon.svg", "/favicon.ico")
"""What is served before the login."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No inline script or style, nothing from elsewhere, and no text is ever made into markup."""

_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a form's Origin would be "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ELSEWHERE: Final = ("cross-site", "same-site")  # Sec-Fetch-Site of what another page causes
_PROXIED: Final = ("Forwarded", "Via", "X-Real-IP")  # and X-Forwarded-*
_AGAIN: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tapewire</title>'
    '<meta http-equiv="refresh" content="0; url={0}"></head><body><a href="{0}">Go on to Tapewire</a></body></html>'
)


class Guard:
    """Middleware of the server. `prove` and `deny` are called for requests that were let in, and for refused ones (reason, client)."""

    def __init__(
        self,
        config: DashboardConfig,
        token_file: Path,
        clock: Clock,
        *,
        prove: Callable[[web.Request], None],
        deny: Callable[[str, str], None],
    ) -> None:
        self._config = config
        self._token = Token(token_file)
        self._links = Links(clock)
        self._sessions = Sessions(self._token, config.session, clock)
        self._attempts = Attempts(config.attempts, clock)
        self.addresses = Addresses(config)
        self._prove = prove
        self._deny = deny
        self._beyond = not is_loopback_host(config.host)  # other machines can connect
        foreign = any(not is_loopback_host(name) for name in config.allowed_hosts)
        self.needs_login = config.login == "always" or self._beyond or foreign

    def middleware(self) -> Middleware:
        """For `web.Application`."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            response: web.StreamResponse
            try:
                response = self._refusal(request) or await handler(request)
            except web.HTTPException as error:
                response = error
            for name, value in _HEADERS.items():
                if not response.prepared:
                    response.headers.setdefault(name, value)
            if isinstance(response, web.HTTPException):
                raise response
            return response

        return guarded

    def login_code(self) -> str:
        """A new code for `/?login=CODE`."""
        return self._links.make()

    def allowed(self, request: web.Request) -> bool:
        """Whether the browser is (still) logged in, or need not be."""
        return not self._asks(request) or self._sessions.holds(request.cookies.get(self._sessions.cookie, ""))

    def client(self, request: web.Request) -> str:
        """Address of the client, behind trusted proxies too."""
        return self.addresses.client(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        called = self.addresses.host(request)
        # Both: a page of a rebound name could claim to be forwarded by this machine, which may be a trusted proxy
        if not all(
            known_host(host, self._config.allowed_hosts, addresses=self._beyond)
            for host in (request.host, called)
        ):
            return self._refuse(request, 421, "this page is not served under that name")
        changing = request.method not in ("GET", "HEAD")
        if (changing or request.headers.get("Upgrade")) and not _from(called, request):
            return self._refuse(
                request, 403, "that did not come from this page (behind a proxy: it must pass Host on)"
            )
        elsewhere = request.headers.get("Sec-Fetch-Site") in _ELSEWHERE
        if elsewhere and not _navigates(request):
            return self._refuse(request, 403, "another site may not load this")
        if "login" in request.query and _navigates(request):
            return self._follow(request)
        if self.allowed(request):
            self._prove(request)
            return None
        if self.addresses.path(request) in OPEN_PATHS:
            return None
        if not _navigates(request):
            return web.Response(status=401, text="log in first\n")
        # A link on another site: that request has no cookie, the one that this page makes has
        if elsewhere:
            return _again(self.addresses.here(request, request.rel_url.raw_query_string))
        return _redirect(self.addresses.link(request, "/login"))

    def _refuse(self, request: web.Request, status: int, why: str) -> web.Response:
        self._deny(why, self.client(request))
        return web.Response(status=status, text=f"{why}\n")

    def _asks(self, request: web.Request) -> bool:
        if self.needs_login:
            return True
        return any(name in request.headers for name in _PROXIED) or any(
            name.lower().startswith("x-forwarded") for name in request.headers
        )

    # -- login -------------------------------------------------------------------------------------------------------

    async def log_in(self, request: web.Request) -> web.Response:
        """Take the token from the form. The right one is always taken; wrong ones are answered with 429 after a minute's tries."""
        given = (await request.post()).get("token", "")
        if isinstance(given, str) and self._token.is_right(given.strip()):
            return self._enter(request, self.addresses.link(request))
        client = client_key(self.client(request))
        wait = self._attempts.wait(client)
        self._attempts.wrong(client)
        self._deny("wrong token", client)
        if wait:
            return web.Response(
                status=429, text="too many wrong tokens\n", headers={"Retry-After": str(wait)}
            )
        return _redirect(self.addresses.link(request, "/login?wrong"))

    async def log_out(self, request: web.Request) -> web.Response:
        """End this browser's session."""
        self._sessions.end(request.cookies.get(self._sessions.cookie, ""))
        response = _redirect(self.addresses.link(request, "/login" if self._asks(request) else "/"))
        response.del_cookie(
            self._sessions.cookie, path=self.addresses.prefix(request), httponly=True, samesite="Strict"
        )
        return response

    def _follow(self, request: web.Request) -> web.Response:
        """A login link: the cookie, and the same address without the code."""
        query = request.rel_url.query.copy()
        code = query.popall("login")[0]
        clean = self.addresses.here(request, request.rel_url.with_query(query).raw_query_string)
        if "prefetch" in request.headers.get("Sec-Purpose", request.headers.get("Purpose", "")):
            return web.Response(status=503, text="a login link is not fetched ahead\n")
        if self._links.use(code):
            return self._enter(request, clean)
        if self.allowed(request):
            return _redirect(clean)
        client = client_key(self.client(request))
        self._attempts.wrong(client)
        self._deny("a login link that was used or is too old", client)
        return _redirect(self.addresses.link(request, "/login?link"))

    def _enter(self, request: web.Request, to: str) -> web.Response:
        response = _again(to) if request.headers.get("Sec-Fetch-Site") in _ELSEWHERE else _redirect(to)
        response.set_cookie(
            self._sessions.cookie,
            self._sessions.begin(),
            max_age=self._sessions.seconds,
            httponly=True,
            samesite="Strict",
            secure=self.addresses.is_https(request),
            path=self.addresses.prefix(request),
        )
        return response


def _from(host: str, request: web.Request) -> bool:
    """True if `Origin` names the very host and port that was called; a proxy may have added TLS, so the scheme is left open."""
    try:
        origin = urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        return False
    return (
        origin.scheme in ("http", "https") and bool(origin.netloc) and origin.netloc.lower() == host.lower()
    )


def _navigates(request: web.Request) -> bool:
    """A person opens the page, maybe by a link from elsewhere: no script sees what comes back."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"


def _redirect(to: str) -> web.Response:
    return web.Response(status=303, headers={"Location": to})


def _again(to: str) -> web.Response:
    """A page that goes on to `to` by itself, so that the next request is this site's own and carries its cookie."""
    return web.Response(text=_AGAIN.format(escape(to)), content_type="text/html")
