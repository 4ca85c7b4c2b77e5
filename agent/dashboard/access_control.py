"""Access control: every request passes here first.

* `Host` must be an address or a known name. Otherwise a foreign site could point its own name at this machine
  (DNS rebinding).
* Requests that change something, and the WebSocket, must come from this page: `Origin` must equal the
  requested host. A browser always sends `Origin` with them, and other sites can't forge it.
* Programs send a token of the API with each request to it (`agent.api.api_tokens`), and no `Origin`.
* A browser logs in with the token or a single-use link. It gets a cookie that scripts can't read, that is not
  sent with other sites' requests, and that expires. `login = "never"` skips the login on loopback,
  except for proxied requests.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from agent.api.api_access import SENDER, Sender, TokenAccess, bearer_token, is_api
from agent.api.api_messages import Scope
from agent.api.problems import RequestProblem, problem_of_http, problem_response
from agent.config.services import DashboardConfig
from agent.dashboard.login import FailedLogins, LoginLinks, LoginSessions, TokenFile
from agent.dashboard.public_address import PublicAddress
from agent.system.addresses import is_loopback_host, known_host
from agent.system.clock import Clock
from agent.system.listening_sockets import client_key

PUBLIC_PATHS: Final = ("/login", "/logout", "/assets/style.css", "/assets/icon.svg", "/favicon.ico")
"""Paths that are served without a login."""

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Forbids inline scripts and styles, other origins, and parsing text as markup."""

_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a form's Origin would be "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FOREIGN_SITES: Final = ("cross-site", "same-site")  # Sec-Fetch-Site of requests that another page causes
_PROXY_HEADERS: Final = ("Forwarded", "Via", "X-Real-IP")  # and X-Forwarded-*
_REFRESH_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tapewire</title>'
    '<meta http-equiv="refresh" content="0; url={0}"></head>'
    '<body><a href="{0}">Continue to Tapewire</a></body></html>'
)


class AccessControl:
    """Checks of each request, as middleware of the server.

    `on_allowed` is called with each authorized request, `on_denied` with the reason and the client of a
    denied one, `on_limited` with the name of a token that has sent too many. `programs` has the tokens of the
    API; None if it is disabled for programs, and only serves the page.
    """

    def __init__(
        self,
        config: DashboardConfig,
        token_file: Path,
        clock: Clock,
        *,
        on_allowed: Callable[[web.Request], None],
        on_denied: Callable[[str, str], None],
        on_limited: Callable[[str], None],
        programs: TokenAccess | None = None,
    ) -> None:
        self._config = config
        self._programs = programs
        self._on_limited = on_limited
        self._token = TokenFile(token_file)
        self._links = LoginLinks(clock)
        self._sessions = LoginSessions(self._token, config.session, clock)
        self._failed = FailedLogins(config.attempts, clock)
        self.address = PublicAddress(config)
        self._on_allowed = on_allowed
        self._on_denied = on_denied
        self._reachable_remotely = not is_loopback_host(config.host)
        has_public_name = any(not is_loopback_host(name) for name in config.allowed_hosts)
        self.needs_login = config.login == "always" or self._reachable_remotely or has_public_name

    def middleware(self) -> Middleware:
        """Return the middleware for `web.Application`."""

        @web.middleware
        async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
            response: web.StreamResponse
            try:
                response = self._check(request) or await handler(request)
            except web.HTTPException as error:
                response = error
                problem = problem_of_http(error) if self._is_api(request) else None
                if problem is not None:
                    response = problem_response(request, problem)
            for name, value in _HEADERS.items():
                if not response.prepared:
                    response.headers.setdefault(name, value)
            if isinstance(response, web.HTTPException):
                raise response
            return response

        return check_access

    def login_code(self) -> str:
        """Return a new code for `/?login=CODE`."""
        return self._links.create()

    def is_authorized(self, request: web.Request) -> bool:
        """Return True if the browser is (still) logged in, or needs no login, or if the token is valid."""
        sender = request.get(SENDER)
        if self._programs is not None and sender is not None and sender.token is not None:
            return self._programs.is_valid(sender)
        return not self._requires_login(request) or self._sessions.is_valid(self._cookie(request))

    def _check(self, request: web.Request) -> web.Response | None:
        """Return the response that denies or redirects the request; None if it may pass."""
        host = self.address.host(request)
        # Check both names: a page under a rebound name could send X-Forwarded-Host from this machine, which
        # may be a trusted proxy
        names, remote = self._config.allowed_hosts, self._reachable_remotely
        if not all(known_host(one, names, addresses=remote) for one in (request.host, host)):
            return self._deny(request, 421, "this page is not served under that host name")
        changing = request.method not in ("GET", "HEAD")
        token = bearer_token(request) if self._is_api(request) else None
        from_program = token is not None and "Origin" not in request.headers
        must_be_ours = (changing or request.headers.get("Upgrade")) and not from_program
        if must_be_ours and not _is_same_origin(host, request):
            why = "the request did not come from this page (a proxy in between must forward the Host header)"
            return self._deny(request, 403, why)
        from_other_site = request.headers.get("Sec-Fetch-Site") in _FOREIGN_SITES
        if from_other_site and (self._is_api(request) or not _is_navigation(request)):
            return self._deny(request, 403, "other sites may not load this")
        if self._is_api(request):
            return self._check_sender(request, token)
        if "login" in request.query and _is_navigation(request):
            return self._follow_login_link(request)
        if self.is_authorized(request):
            self._on_allowed(request)
            return None
        if self.address.path(request) in PUBLIC_PATHS:
            return None
        if not _is_navigation(request):
            return web.Response(status=401, text="log in first\n")
        # A browser sends no strict cookie when it follows another site's link, but does on a refresh
        if from_other_site:
            return _refresh(self.address.link_to_self(request, request.rel_url.raw_query_string))
        return _redirect(self.address.link(request, "/login"))

    def _is_api(self, request: web.Request) -> bool:
        return is_api(self.address.path(request))

    def _check_sender(self, request: web.Request, token: str | None) -> web.Response | None:
        """Check a request to the API and note its sender; without a token, that is the logged-in browser."""
        client = client_key(self.address.client(request))
        if token is not None and self._programs is None:
            return _unauthorized(request, "the API is disabled for programs: api.enabled = false")
        if token is None or self._programs is None:
            if not self.is_authorized(request):
                return _unauthorized(request, "the request has no token")
            request[SENDER] = Sender(f"dashboard {self.address.client(request)}", frozenset(Scope))
        else:
            sender = self._programs.sender(token)
            if sender is None:
                seconds = self._failed.retry_after(client)
                self._failed.add(client)
                self._on_denied("wrong token of the API", client)
                if seconds:
                    return _too_many(request, "too many wrong tokens", seconds)
                return _unauthorized(request, "the token is unknown, revoked or expired")
            if seconds := self._programs.retry_after(sender):
                self._on_limited(sender.name)
                return _too_many(request, f"{sender.name} has sent too many requests", seconds)
            request[SENDER] = sender
        self._on_allowed(request)
        return None

    def _deny(self, request: web.Request, status: int, why: str) -> web.Response:
        self._on_denied(why, self.address.client(request))
        if self._is_api(request):
            kind = "unknown-host" if status == 421 else "forbidden"
            return problem_response(request, RequestProblem(kind, why))
        return web.Response(status=status, text=f"{why}\n")

    def _cookie(self, request: web.Request) -> str:
        return request.cookies.get(self._sessions.cookie_name, "")

    def _requires_login(self, request: web.Request) -> bool:
        if self.needs_login:
            return True
        return any(name in request.headers for name in _PROXY_HEADERS) or any(
            name.lower().startswith("x-forwarded") for name in request.headers
        )

    # -- login -----------------------------------------------------------------------------------------------

    async def log_in(self, request: web.Request) -> web.Response:
        """Check the token in the form.

        The right token is always accepted. A wrong one gets status 429 if the client has reached the limit.
        """
        given = (await request.post()).get("token", "")
        if isinstance(given, str) and self._token.matches(given.strip()):
            return self._start_session(request, self.address.link(request))
        client = client_key(self.address.client(request))
        seconds = self._failed.retry_after(client)
        self._failed.add(client)
        self._on_denied("wrong token", client)
        if seconds:
            return web.Response(
                status=429, text="too many wrong tokens\n", headers={"Retry-After": str(seconds)}
            )
        return _redirect(self.address.link(request, "/login?wrong"))

    async def log_out(self, request: web.Request) -> web.Response:
        """Revoke the browser's session and delete its cookie."""
        self._sessions.revoke(self._cookie(request))
        response = _redirect(self.address.link(request, "/login" if self._requires_login(request) else "/"))
        path = self.address.cookie_path(request)
        response.del_cookie(self._sessions.cookie_name, path=path, httponly=True, samesite="Strict")
        return response

    def _follow_login_link(self, request: web.Request) -> web.Response:
        """Redeem the code of a login link, set the cookie, and redirect to the same URL without the code."""
        query = request.rel_url.query.copy()
        code = query.popall("login")[0]
        target = self.address.link_to_self(request, request.rel_url.with_query(query).raw_query_string)
        if "prefetch" in request.headers.get("Sec-Purpose", request.headers.get("Purpose", "")):
            return web.Response(status=503, text="a login link can't be prefetched\n")
        if self._links.redeem(code):
            return self._start_session(request, target)
        if self.is_authorized(request):
            return _redirect(target)
        client = client_key(self.address.client(request))
        self._failed.add(client)
        self._on_denied("used or expired login link", client)
        return _redirect(self.address.link(request, "/login?link"))

    def _start_session(self, request: web.Request, target: str) -> web.Response:
        from_other_site = request.headers.get("Sec-Fetch-Site") in _FOREIGN_SITES
        response = _refresh(target) if from_other_site else _redirect(target)
        response.set_cookie(
            self._sessions.cookie_name,
            self._sessions.create(),
            max_age=self._sessions.lifetime_s,
            httponly=True,
            samesite="Strict",
            secure=self.address.is_https(request),
            path=self.address.cookie_path(request),
        )
        return response


def _is_same_origin(host: str, request: web.Request) -> bool:
    """Return True if `Origin` is the requested host and port. The scheme may differ: a proxy may add TLS."""
    try:
        origin = urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        return False
    return (
        origin.scheme in ("http", "https") and bool(origin.netloc) and origin.netloc.lower() == host.lower()
    )


def _is_navigation(request: web.Request) -> bool:
    """Return True if the user opens the page, maybe through a link. No script can read such a response."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"


def _unauthorized(request: web.Request, why: str) -> web.Response:
    problem = RequestProblem(
        "unauthorized",
        why,
        where="header Authorization",
        hint="Authorization: Bearer TOKEN; tapewire token add makes one",
        headers={"WWW-Authenticate": 'Bearer realm="tapewire"'},
    )
    return problem_response(request, problem)


def _too_many(request: web.Request, why: str, seconds: int) -> web.Response:
    headers = {"Retry-After": str(seconds)}
    hint = f"wait {seconds} s"
    return problem_response(request, RequestProblem("rate-limited", why, hint=hint, headers=headers))


def _redirect(target: str) -> web.Response:
    return web.Response(status=303, headers={"Location": target})


def _refresh(target: str) -> web.Response:
    """Return a page that loads `target` itself: the browser then sends this site's cookies."""
    return web.Response(text=_REFRESH_PAGE.format(escape(target)), content_type="text/html")
