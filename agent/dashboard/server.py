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
from urllib.parse import quote

import msgspec
from aiohttp import web

from agent.config.dashboard import DashboardConfig
from agent.core.errors import ConfigError, DataError, SafetyError, StoreUnavailable, TapewireError, UsageError
from agent.dashboard.archive import Archive, Busy, failure
from agent.dashboard.guard import Guard
from agent.dashboard.live import COMMANDS, Agent
from agent.dashboard.push import Viewer, encode
from agent.store.database import Database
from agent.system.clock import Clock, WallClock
from agent.system.listening_sockets import Listener
from agent.system.untrusted import JSON_DECODE_ERRORS

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
_LOG_OUT: Final = '<form method="post" action="{root}logout"><button>Log out</button></form>'
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
        self._guard = Guard(
            config, self.token_file, clock or WallClock(), prove=self._prove, deny=self.listener.deny
        )
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
        return self._line(
            self.url, f"log in with `tapewire dashboard --open`, or the token in {self.token_file}"
        )

    def login_url(self) -> str:
        """The page's address with a code that logs one browser in, once, within ten minutes; a new one each time."""
        return f"{self.url}?login={self._guard.login_code()}" if self._guard.needs_login else self.url

    def invitation(self) -> str:
        """The announcement for the terminal of the person who started this: its address logs a browser in, once."""
        return self._line(
            self.login_url(),
            f"works once, within ten minutes; later log in with the token in {self.token_file}",
        )

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
            client_max_size=10_000,
            middlewares=[self.listener.middleware(), self._guard.middleware(), _bodies_in_time],
        )
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", self._page),
            ("GET", "/runs", self._page),
            ("GET", "/runs/{id}", self._page),
            ("GET", "/runs/{id}/report", self._report),
            ("GET", "/assets/{name}", self._asset),
            ("GET", "/favicon.ico", self._icon),  # for the report, which names none
            ("GET", "/login", self._login),
            ("POST", "/login", self._guard.log_in),
            ("POST", "/logout", self._guard.log_out),
            ("GET", "/api/live", self._live),
            ("GET", "/api/runs", _told(self._runs)),
            ("GET", "/api/runs/{id}", _told(self._open)),
            ("GET", "/api/runs/{id}/at", _told(self._at)),
            ("POST", "/api/command", _told(self._command)),
        ]
        for method, path, handler in routes:
            for base in {"", self.config.base_path}:
                if method == "GET":
                    app.router.add_get(base + path, handler)
                else:
                    app.router.add_post(base + path, handler)
        if self.config.base_path:
            app.router.add_get(self.config.base_path, _below)
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if self._agent is None and self._guard.addresses.path(request) == "/":
            return web.Response(status=303, headers={"Location": "./runs"})
        return self._fill(
            request, "index.html", {"<!-- log out -->": _LOG_OUT if self._guard.needs_login else ""}
        )

    def _fill(
        self, request: web.Request, name: str, texts: dict[str, str], status: int = 200
    ) -> web.Response:
        """A page with its texts, which are markup, and with addresses that are relative to the request's."""
        page = (_PAGE / name).read_text(encoding="utf-8")
        for place, text in texts.items():
            page = page.replace(place, text)
        page = page.replace("{root}", self._guard.addresses.link(request))
        return web.Response(status=status, text=page, content_type="text/html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = _ASSETS.get(request.match_info["name"])
        if name is None:
            raise web.HTTPNotFound
        kind = _TYPES[Path(name).suffix]
        return web.FileResponse(
            _PAGE / name, headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"}
        )

    async def _icon(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(_PAGE / "icon.svg", headers={"Content-Type": "image/svg+xml"})

    async def _login(self, request: web.Request) -> web.StreamResponse:
        if self._guard.allowed(request):
            return web.Response(status=303, headers={"Location": "./"})
        note = next((text for name, text in _FORM_NOTES.items() if name in request.query), "")
        wrong = f'<p class="wrong" role="alert">{note}</p>' if note else ""
        return self._fill(
            request, "login.html", {"<!-- wrong -->": wrong, "<!-- file -->": escape(self.token_file.name)}
        )

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
            return await self._no_report(request, error)
        return web.Response(
            body=page,
            content_type="text/html",
            charset="utf-8",
            headers={"Content-Security-Policy": _REPORT_POLICY},
        )

    async def _no_report(self, request: web.Request, error: TapewireError) -> web.Response:
        asked = request.match_info["id"]
        run = await self._archive.find(asked)
        why = str(error)
        if run is not None and isinstance(error, DataError) and (ended := failure(run)):
            what = error.message.removesuffix(" yet")
            why = f"{ended} {what[0].upper()}{what[1:]}."
        link = f'<a href="{{root}}runs/{quote(run.id)}">Look at the run</a>, or at' if run else "See"
        texts = {
            "<!-- run -->": escape(run.id if run else asked),
            "<!-- link -->": link,
            "<!-- why -->": escape(why),
        }
        return self._fill(request, "no-report.html", texts, status=_status_of(error))

    async def _command(self, request: web.Request) -> Any:
        if self._agent is None or self._agent.picture is None:
            raise UsageError("no agent runs here", hint="this page only shows recorded runs")
        try:
            order = msgspec.json.decode(await request.read(), type=_Order)
        except JSON_DECODE_ERRORS as error:
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


async def _below(request: web.Request) -> web.StreamResponse:
    """`base_path` without its slash: relative addresses need it."""
    return web.Response(status=303, headers={"Location": f"./{request.path.rpartition('/')[2]}/"})


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
    # what was asked for isn't there: no report of a run that recorded nothing
    if isinstance(error, DataError):
        return 404
    return 404 if isinstance(error, UsageError) else 500
