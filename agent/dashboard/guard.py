"""Who may see the page: every request passes here first.

* `Host` must be an address or a known name, so that a foreign site that points its name at this machine (DNS rebinding) gets
  nothing.
* What changes something, and the WebSocket, must come from this very page: `Origin` is the host that was called. A browser always
  sends it there, and other sites can't forge it.
* Not on loopback, a browser shows that it was given the token: it logs in once, and gets a cookie that scripts can't read, that no
  other site's request carries, and that ends by itself.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from agent.clock import Clock
from agent.config_dashboard import DashboardConfig
from agent.events import MINUTE_MS
from agent.feeds.addresses import is_loopback
from agent.live.token import make_token, same_token

COOKIE: Final = "tapewire"
OPEN_PATHS: Final = ("/login", "/assets/style.css", "/assets/icon.svg")
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
_ADDRESSES: Final = 1_000  # whose attempts are remembered


def required_token(config: DashboardConfig) -> str | None:
    """None on loopback; else the token in `token_file`, which is made at the first start. Raises like `make_token`."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return None if is_loopback(f"//{host}") else make_token(config.token_file)


class Attempts:
    """Wrong tokens of each address in the last minute; the address that was quiet longest is forgotten first."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds until this address may try again; 0: now."""
        now = self._clock.now()
        recent = [at for at in self._wrong.get(address, ()) if at > now - MINUTE_MS]
        return 0 if len(recent) < self._limit else -(-(recent[0] + MINUTE_MS - now) // 1000)

    def wrong(self, address: str) -> None:
        """Count one."""
        now = self._clock.now()
        self._wrong[address] = [at for at in self._wrong.get(address, ()) if at > now - MINUTE_MS] + [now]
        self._wrong.move_to_end(address)
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)


class Guard:
    """Middleware of the server. `token` is None on loopback, where who can connect may look."""

    def __init__(self, config: DashboardConfig, token: str | None, clock: Clock) -> None:
        self._config = config
        self._token = token
        self._clock = clock
        self._attempts = Attempts(config.attempts, clock)

    def middleware(self) -> Middleware:
        """For `web.Application`."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self._refusal(request)
            try:
                response = refusal or await handler(request)
            except web.HTTPException as error:
                response = error
            for name, value in _HEADERS.items():
                if not response.prepared:
                    response.headers.setdefault(name, value)
            if isinstance(response, web.HTTPException):
                raise response
            return response

        return guarded

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._known_host(request.host):
            return _refuse(421, "this page is not served under that name")
        changing = request.method not in ("GET", "HEAD")
        if (changing or request.headers.get("Upgrade")) and not _from_here(request):
            return _refuse(403, "that did not come from this page")
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _navigates(request):
            return _refuse(403, "another site may not load this")
        if self._token is None or request.path in OPEN_PATHS or self._logged_in(request):
            return None
        if request.method == "GET" and _navigates(request):
            return web.Response(status=303, headers={"Location": "/login"})
        return _refuse(401, "log in first")

    def _known_host(self, header: str) -> bool:
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in (allowed.lower() for allowed in self._config.allowed_hosts):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._token is not None

    # -- login -------------------------------------------------------------------------------------------------------

    @property
    def needs_login(self) -> bool:
        """Whether anybody is asked."""
        return self._token is not None

    async def log_in(self, request: web.Request) -> web.Response:
        """Take the token from the form; the right one is answered with the cookie, a wrong one after a minute's tries with 429."""
        address = request.remote or ""
        wait = self._attempts.wait(address)
        if wait:
            return web.Response(status=429, text="too many wrong tokens", headers={"Retry-After": str(wait)})
        given = (await request.post()).get("token", "")
        if self._token is None or not isinstance(given, str) or not same_token(given.strip(), self._token):
            self._attempts.wrong(address)
            return web.Response(status=303, headers={"Location": "/login?wrong"})
        response = web.Response(status=303, headers={"Location": "/"})
        ends = self._clock.now() // 1000 + self._config.session
        response.set_cookie(
            COOKIE, f"{ends}.{self._seal(ends)}", max_age=self._config.session, httponly=True, samesite="Strict", path="/"
        )
        return response

    def _logged_in(self, request: web.Request) -> bool:
        ends, _, seal = request.cookies.get(COOKIE, "").partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 16):
            return False
        return same_token(seal, self._seal(int(ends))) and self._clock.now() // 1000 < int(ends)

    def _seal(self, ends: int) -> str:
        return hmac.new((self._token or "").encode(), f"session {ends}".encode(), sha256).hexdigest()


def _from_here(request: web.Request) -> bool:
    """`Origin` names the very host and port that was called; a proxy may have added TLS, so the scheme is left open."""
    try:
        origin = urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        return False
    return origin.scheme in ("http", "https") and bool(origin.netloc) and origin.netloc.lower() == request.host.lower()


def _navigates(request: web.Request) -> bool:
    """A person opens the page, maybe by a link from elsewhere: no script sees what comes back."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"


def _refuse(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=f"{why}\n")
