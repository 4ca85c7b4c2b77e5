"""The server of the page, in the event loop of whoever starts it: the daemon's, or `tapewire dashboard`'s own."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from functools import wraps
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from agent.clock import Clock, WallClock
from agent.config_dashboard import DashboardConfig
from agent.dashboard.archive import Archive, Busy
from agent.dashboard.guard import Guard
from agent.dashboard.live import COMMANDS, Agent
from agent.dashboard.push import Viewer, encode
from agent.errors import ConfigError, SafetyError, StoreUnavailable, TapewireError, UsageError
from agent.listeners import Listener
from agent.store.database import Database
from agent.untrusted import UNREADABLE

PORTS: Final = 20
"""How many ports from the configured one on are tried before any other."""

_PAGE: Final = Path(__file__).with_name("page")
_ASSETS: Final = {
    "app.js": "app.js",
    "charts.js": "charts.js",
    "format.js": "format.js",
    "panels.js": "panels.js",
    "style.css": "style.css",
    "icon.svg": "icon.svg",
    "lightweight-charts.js": "vendor/lightweight-charts.js",
}
_LOG_OUT: Final = '<form method="post" action="/logout"><button>Log out</button></form>'
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_REPORT_POLICY: Final = (
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; frame-ancestors 'none'"
)
"""The report brings its own scripts and loads nothing; it is given an origin of its own, which can't speak to this server."""
_COMMAND_PATIENCE: Final = 15.0
_BODY_PATIENCE: Final = 10.0  # seconds for the body of a request
_FORM_NOTES: Final = {"wrong": "That is not the token.", "link": "That link was used already, or is too old."}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a button sends."""

    action: str
    run: str
    flatten: bool = False
    confirm: str = ""


class Dashboard:
    """`async with Dashboard(config, database, agent) as page`: served at `page.url` as long as the context lasts.

    Without an `agent` only recorded runs are shown. `token_file` is used if `config` names none. Raises ConfigError if the
    address can't be used, SafetyError if the token is no secret.
    """

    def __init__(
        self,
        config: DashboardConfig,
        database: Database,
        agent: Agent | None = None,
        *,
        token_file: Path = Path("var/dashboard.token"),
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.port = config.port
        self._agent = agent
        self._archive = Archive(database, bars=config.bars)
        self.token_file = config.token_file or token_file
        self.listener = Listener("dashboard", config)
        self._guard = Guard(config, self.token_file, clock or WallClock(), prove=self._prove, deny=self.listener.deny)
        self._viewers: set[Viewer] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.config.host, self.config.host)
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.port}/"

    @property
    def announcement(self) -> str:
        """A line for people: where it is, and what they need to know to get there."""
        return self._line(self.url, f"log in with `tapewire dashboard --open`, or the token in {self.token_file}")

    def login_url(self) -> str:
        """The page's address with a code that logs one browser in, once, within ten minutes; a new one each time."""
        return f"{self.url}?login={self._guard.login_code()}" if self._guard.needs_login else self.url

    def invitation(self) -> str:
        """The announcement for the terminal of the person who started this: its address logs a browser in, once."""
        return self._line(self.login_url(), f"works once, within ten minutes; later log in with the token in {self.token_file}")

    def _line(self, url: str, login: str) -> str:
        notes = [f"port {self.config.port} was taken"] if self.config.port not in (0, self.port) else []
        notes += [login] if self._guard.needs_login else []
        text = "; ".join(notes)
        return f"dashboard: {url} ({text})" if text else f"dashboard: {url}"

    async def __aenter__(self) -> Self:
        self._runner = await self.listener.serve(self._application())
        try:
            await self._listen()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the port and of all browsers."""
        await self.listener.close()
        for viewer in list(self._viewers):
            viewer.drop()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._archive.close()

    def _prove(self, request: web.Request) -> None:
        connection = self.listener.connection(request.transport)
        if connection is not None:
            connection.prove()

    async def _listen(self) -> None:
        first = self.config.port
        for port in (*(range(first, min(first + PORTS, 65_536)) if first else ()), 0):
            try:
                self.port = await self.listener.listen(self.config.host, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise ConfigError(
                    f"dashboard: {self.config.host} port {port} can't be used: {error.strerror}",
                    hint="choose another dashboard.host or dashboard.port, or dashboard.enabled = false",
                ) from None
            return

    # -- routes ------------------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        app = web.Application(
            client_max_size=10_000, middlewares=[self.listener.middleware(), self._guard.middleware(), _bodies_in_time]
        )
        app.router.add_get("/", self._page)
        app.router.add_get("/runs", self._page)
        app.router.add_get("/runs/{id}", self._page)
        app.router.add_get("/runs/{id}/report", self._report)
        app.router.add_get("/assets/{name}", self._asset)
        app.router.add_get("/login", self._login)
        app.router.add_post("/login", self._guard.log_in)
        app.router.add_post("/logout", self._guard.log_out)
        app.router.add_get("/api/live", self._live)
        app.router.add_get("/api/runs", _told(self._runs))
        app.router.add_get("/api/runs/{id}", _told(self._open))
        app.router.add_get("/api/runs/{id}/at", _told(self._at))
        app.router.add_post("/api/command", _told(self._command))
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/" and self._agent is None:
            return web.Response(status=303, headers={"Location": "/runs"})
        page = (_PAGE / "index.html").read_text(encoding="utf-8")
        out = _LOG_OUT if self._guard.needs_login else ""
        return web.Response(text=page.replace("<!-- log out -->", out), content_type="text/html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = _ASSETS.get(request.match_info["name"])
        if name is None:
            raise web.HTTPNotFound
        kind = _TYPES[Path(name).suffix]
        return web.FileResponse(_PAGE / name, headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"})

    async def _login(self, request: web.Request) -> web.StreamResponse:
        if self._guard.allowed(request):
            return web.Response(status=303, headers={"Location": "/"})
        page = (_PAGE / "login.html").read_text(encoding="utf-8")
        note = next((text for name, text in _FORM_NOTES.items() if name in request.query), "")
        wrong = f'<p class="wrong" role="alert">{note}</p>' if note else ""
        page = page.replace("<!-- wrong -->", wrong).replace("<!-- file -->", escape(self.token_file.name))
        return web.Response(text=page, content_type="text/html")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self._agent is None:
            raise web.HTTPNotFound
        if len(self._viewers) >= self.config.browsers:
            raise web.HTTPServiceUnavailable(text="too many pages look on already\n")
        viewer = Viewer(self._agent, request, lambda: self._guard.allowed(request))
        self._viewers.add(viewer)
        try:
            return await viewer.serve()
        finally:
            self._viewers.discard(viewer)

    async def _runs(self, request: web.Request) -> Any:
        picture = self._agent.picture if self._agent else None
        return {
            "live": self._agent is not None,
            "run": picture.head.run if picture else None,
            "runs": await self._archive.runs(),
        }

    async def _open(self, request: web.Request) -> Any:
        opened = await self._archive.open(request.match_info["id"], again="again" in request.query)
        return {"live": self._agent is not None, **opened}

    async def _at(self, request: web.Request) -> Any:
        moment = request.query.get("ts", "")
        if not (moment.isascii() and moment.isdigit() and len(moment) < 16):
            raise UsageError("ts is no time in UTC milliseconds")
        return await self._archive.at(request.match_info["id"], int(moment), request.query.get("symbol", ""))

    async def _report(self, request: web.Request) -> web.StreamResponse:
        try:
            page = await self._archive.report(request.match_info["id"])
        except TapewireError as error:
            return web.Response(status=_status_of(error), text=f"{error}\n")
        return web.Response(
            body=page, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": _REPORT_POLICY}
        )

    async def _command(self, request: web.Request) -> Any:
        if self._agent is None or self._agent.picture is None:
            raise UsageError("no agent runs here", hint="this page only shows recorded runs")
        try:
            order = msgspec.json.decode(await request.read(), type=_Order)
        except UNREADABLE as error:
            raise UsageError(f"no command: {error}") from None
        if order.action not in COMMANDS:
            raise UsageError(f"unknown command {order.action!r}", hint=f"one of {', '.join(COMMANDS)}")
        if order.run != self._agent.picture.head.run:
            raise UsageError("the page shows another run than the one that lives", hint="load it again")
        args = {"flatten": "true"} if order.flatten and order.action == "kill" else {}
        if order.action == "resume" and order.confirm:
            args["confirm"] = order.confirm
        async with asyncio.timeout(_COMMAND_PATIENCE):
            return await self._agent.command(order.action, args, f"dashboard {self._guard.client(request)}")


@web.middleware
async def _bodies_in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A body that doesn't come in time ends its request."""
    if request.body_exists:
        try:
            async with asyncio.timeout(_BODY_PATIENCE):
                await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
    return await handler(request)


def _told(work: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Answers with JSON; an expected error with its words."""

    @wraps(work)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=encode(await work(request)), content_type="application/json")
        except TapewireError as error:
            told, status = {"error": error.message, "hint": error.hint}, _status_of(error)
        except TimeoutError:
            told, status = {"error": "the agent did not answer in time", "hint": "look at its log"}, 504
        return web.Response(status=status, body=encode(told), content_type="application/json")

    return answer


def _status_of(error: TapewireError) -> int:
    if isinstance(error, (Busy, StoreUnavailable)):
        return 503
    if isinstance(error, SafetyError):
        return 403
    return 404 if isinstance(error, UsageError) else 500
