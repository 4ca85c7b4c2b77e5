"""The dashboard's HTTP server, in the event loop of the daemon or of `tapewire dashboard`."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec
from aiohttp import web

from agent.api.api_access import TokenAccess
from agent.api.api_messages import CommandRequest
from agent.api.api_tokens import TokenRegistry
from agent.api.command_arguments import arguments, timeout_of
from agent.api.rest_api import ApiRoutes
from agent.config.services import ApiConfig, DashboardConfig, RemoteAgentConfig
from agent.core.errors import (
    ConfigError,
    DataError,
    SafetyError,
    StoreUnavailable,
    TapewireError,
    UsageError,
    VenueError,
)
from agent.dashboard.access_control import AccessControl
from agent.dashboard.agent_adapter import COMMANDS, AgentAdapter
from agent.dashboard.remote_agents import RemoteAgents, totals_of
from agent.dashboard.replay_jobs import ReplayJobs
from agent.dashboard.replay_views import view_of_job
from agent.dashboard.replay_worker import Work
from agent.dashboard.run_archive import RunArchive, failure
from agent.dashboard.websocket import BrowserSession, encode
from agent.jobs.job_queue import JobQueue
from agent.replay.what_if_request import WhatIfRequest
from agent.store.database import Database
from agent.system.clock import Clock, WallClock
from agent.system.limited_threads import ServerBusy
from agent.system.listening_sockets import Listener
from agent.system.untrusted import JSON_DECODE_ERRORS

PORTS: Final = 20
"""Number of ports to try, from the configured one on, before any free port is used."""

BODY_TIMEOUT: Final = 10.0
"""Seconds in which the body of a request must arrive."""

API_TOKENS: Final = "api-tokens.json"
"""Name of the file with the tokens of the API, beside the dashboard's token file."""

_PAGE: Final = Path(__file__).with_name("page")
_ASSETS: Final = {
    "agents.js": "agents.js",
    "app.js": "app.js",
    "beside.js": "beside.js",
    "charts.js": "charts.js",
    "configuration.js": "configuration.js",
    "drift.js": "drift.js",
    "format.js": "format.js",
    "intervals.js": "intervals.js",
    "log.js": "log.js",
    "panels.js": "panels.js",
    "performance.js": "performance.js",
    "replays.js": "replays.js",
    "requests.js": "requests.js",
    "research.js": "research.js",
    "research-form.js": "research-form.js",
    "scrolling.js": "scrolling.js",
    "stories.js": "stories.js",
    "trades.js": "trades.js",
    "twin.js": "twin.js",
    "views.js": "views.js",
    "what-if.js": "what-if.js",
    "style.css": "style.css",
    "icon.svg": "icon.svg",
    "lightweight-charts.js": "vendor/lightweight-charts.js",
}
_CONTENT_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_LOG_OUT: Final = '<form method="post" action="{root}logout"><button>Log out</button></form>'
_LOGIN_ERRORS: Final = {
    "wrong": "Wrong token.",
    "link": "This login link has been used already, or has expired.",
}
_REPORT_POLICY: Final = (
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'"
)
"""The report contains its scripts and loads nothing. The sandbox denies it access to this server."""
_MAX_SEARCH: Final = 200  # characters of the words that are searched

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that starts a job. There is no strategy in it: a page can't choose what code runs."""

    work: Work
    begins: str = ""
    change: dict[str, str] = {}
    params: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    flip: tuple[str, ...] = ()
    sleeve: str = ""  # whose parameters change


class _AgentCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that commands another agent."""

    agent: str
    command: CommandRequest


class Dashboard:
    """A server that runs as an async context: `async with Dashboard(config, database, agent) as page`.

    Without an `agent`, only recorded runs are shown. `agents` are others, shown on a page of their own.
    `token_file` is used if `config` contains none, and the tokens of the API are beside it unless `api` names
    a file. `jobs` are closed with the server; a text states why it runs none. Raises ConfigError if the
    server can't listen on the address, SafetyError if the token is too short or readable by other users.
    """

    def __init__(
        self,
        config: DashboardConfig,
        database: Database,
        agent: AgentAdapter | None = None,
        *,
        token_file: Path = Path("var/dashboard.token"),
        live_folder: Path | None = None,
        api: ApiConfig | None = None,
        agents: Sequence[RemoteAgentConfig] = (),
        clock: Clock | None = None,
        jobs: JobQueue | str = "this server was made without jobs",
    ) -> None:
        self.config = config
        self.port = config.port
        self.token_file = config.token_file or token_file
        self.listener = Listener("dashboard", config)
        self.sessions: set[BrowserSession] = set()
        self._agent = agent
        self._jobs = ReplayJobs(
            database, live_folder, timeout=config.replay_timeout, memory=config.replay_memory
        )
        self._archive = RunArchive(database, self._jobs, bars=config.bars)
        self._remote = RemoteAgents(agents, config.agents_every / 1000)
        api = api or ApiConfig()
        clock = clock or WallClock()
        registry = TokenRegistry(api.token_file or self.token_file.with_name(API_TOKENS))
        self._access = AccessControl(
            config,
            self.token_file,
            clock,
            on_allowed=self._on_allowed,
            on_denied=self.listener.deny,
            on_limited=self.listener.limit,
            programs=TokenAccess(registry, api.requests_per_minute, clock) if api.enabled else None,
        )
        self._queue = jobs
        # The page uses it too, so it is there even if it is disabled for programs
        self._api = ApiRoutes(api, database, agent, self.listener, self._access.is_authorized, jobs)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The page's URL on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.config.host, self.config.host)
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.port}/"

    @property
    def announcement(self) -> str:
        """A line with the page's URL and how to log in. It contains no secret."""
        return self._announce(
            self.url, f"log in with `tapewire dashboard --open`, or the token in {self.token_file}"
        )

    def login_announcement(self) -> str:
        """Return a line with a new login link, to print on the terminal that started the server."""
        login = (
            f"the link works once, within ten minutes; after that, log in with the token in {self.token_file}"
        )
        return self._announce(self.login_url(), login)

    def login_url(self) -> str:
        """Return a new login link, which logs one browser in, once, within ten minutes."""
        return f"{self.url}?login={self._access.login_code()}" if self._access.needs_login else self.url

    def _announce(self, url: str, login: str) -> str:
        notes = [f"port {self.config.port} was taken"] if self.config.port not in (0, self.port) else []
        notes += [login] if self._access.needs_login else []
        text = "; ".join(notes)
        return f"dashboard: {url} ({text})" if text else f"dashboard: {url}"

    async def __aenter__(self) -> Self:
        self._runner = await self.listener.serve(self._application())
        try:
            await self._listen()
        except BaseException:
            await self.close()
            raise
        self._remote.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the port and disconnect all browsers."""
        await self._remote.close()
        await self.listener.close()
        for session in list(self.sessions):
            session.abort()
        self._api.abort_streams()
        if self._runner is not None:
            await self._runner.cleanup()
        self._api.close()
        await self._jobs.close()
        if isinstance(self._queue, JobQueue):
            await self._queue.close()
        await self._archive.close()

    def _on_allowed(self, request: web.Request) -> None:
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
                    f"dashboard: can't listen on {self.config.host} port {port}: {error.strerror}",
                    hint="choose another dashboard.host or dashboard.port, or dashboard.enabled = false",
                ) from None
            return

    # -- routes ----------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        middlewares = [self.listener.middleware(), self._access.middleware(), _body_timeout]
        app = web.Application(client_max_size=10_000, middlewares=middlewares)
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", self._page),
            ("GET", "/agents", self._page),
            ("GET", "/runs", self._page),
            ("GET", "/research", self._page),
            ("GET", "/runs/{id}", self._page),
            ("GET", "/runs/{id}/report", self._report),
            ("GET", "/runs/{id}/compare/{other}", self._compare),
            ("GET", "/assets/{name}", self._asset),
            ("GET", "/favicon.ico", self._icon),  # for reports, which have no <link rel="icon">
            ("GET", "/login", self._login),
            ("POST", "/login", self._access.log_in),
            ("POST", "/logout", self._access.log_out),
            ("GET", "/api/live", self._live),
            ("GET", "/api/runs", _json(self._runs)),
            ("GET", "/api/runs/{id}", _json(self._open)),
            ("GET", "/api/runs/{id}/at", _json(self._page_at)),
            ("GET", "/api/runs/{id}/changeable", _json(self._changeable)),
            ("GET", "/api/runs/{id}/headlines", _json(self._headlines)),
            ("POST", "/api/runs/{id}/replay", _json(self._start_replay)),
            ("GET", "/api/replays/{job}", _json(self._replay)),
            ("POST", "/api/replays/{job}/cancel", _json(self._cancel_replay)),
            ("POST", "/api/command", _json(self._command)),
            ("GET", "/api/agents", _json(self._agents)),
            ("POST", "/api/agents/command", _json(self._command_agent)),
        ]
        routes += self._api.routes()
        for method, path, handler in routes:
            for base in {"", self.config.base_path}:
                if method == "GET":
                    app.router.add_get(base + path, handler)
                else:
                    app.router.add_post(base + path, handler)
        if self.config.base_path:
            app.router.add_get(self.config.base_path, _add_slash)
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if self._agent is None and self._access.address.path(request) == "/":
            return web.Response(status=303, headers={"Location": "./runs"})
        log_out = _LOG_OUT if self._access.needs_login else ""
        return self._render(request, "index.html", {"<!-- log out -->": log_out})

    def _render(
        self, request: web.Request, name: str, markup: dict[str, str], status: int = 200
    ) -> web.Response:
        """Return a page. Each key of `markup` is replaced by its value, `{root}` by the relative root URL."""
        page = (_PAGE / name).read_text(encoding="utf-8")
        for placeholder, html in markup.items():
            page = page.replace(placeholder, html)
        page = page.replace("{root}", self._access.address.link(request))
        return web.Response(status=status, text=page, content_type="text/html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = _ASSETS.get(request.match_info["name"])
        if name is None:
            raise web.HTTPNotFound
        kind = _CONTENT_TYPES[Path(name).suffix]
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"}
        return web.FileResponse(_PAGE / name, headers=headers)

    async def _icon(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(_PAGE / "icon.svg", headers={"Content-Type": "image/svg+xml"})

    async def _login(self, request: web.Request) -> web.StreamResponse:
        if self._access.is_authorized(request):
            return web.Response(status=303, headers={"Location": "./"})
        error = next((text for name, text in _LOGIN_ERRORS.items() if name in request.query), "")
        markup = {
            "<!-- error -->": f'<p class="error" role="alert">{error}</p>' if error else "",
            "<!-- file -->": escape(self.token_file.name),
        }
        return self._render(request, "login.html", markup)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self._agent is None:
            raise web.HTTPNotFound
        if len(self.sessions) >= self.config.browsers:
            raise web.HTTPServiceUnavailable(text="too many pages are connected (dashboard.browsers)\n")
        session = BrowserSession(self._agent, request, lambda: self._access.is_authorized(request))
        self.sessions.add(session)
        try:
            return await session.serve()
        finally:
            self.sessions.discard(session)

    async def _runs(self, request: web.Request) -> Any:
        state = self._agent.state if self._agent else None
        return {
            "live": self._agent is not None,
            "run": state.header.run if state else None,
            "runs": await self._archive.runs(),
        }

    async def _open(self, request: web.Request) -> Any:
        opened = await self._archive.open(request.match_info["id"], again="again" in request.query)
        return {"live": self._agent is not None, **opened}

    async def _page_at(self, request: web.Request) -> Any:
        moment = _milliseconds(request, "ts")
        return await self._archive.page_at(request.match_info["id"], moment, request.query.get("symbol", ""))

    async def _changeable(self, request: web.Request) -> Any:
        return await self._archive.changeable(request.match_info["id"])

    async def _headlines(self, request: web.Request) -> Any:
        after = _milliseconds(request, "after") if "after" in request.query else 0
        words = request.query.get("search", "")[:_MAX_SEARCH]
        return await self._archive.headlines(request.match_info["id"], words, after)

    async def _start_replay(self, request: web.Request) -> Any:
        try:
            wanted = msgspec.json.decode(await request.read(), type=_ReplayRequest)
        except JSON_DECODE_ERRORS as error:
            raise UsageError(f"malformed request: {error}") from None
        what_if = WhatIfRequest(
            begins=wanted.begins,
            change=wanted.change,
            params=wanted.params,
            remove=wanted.remove,
            flip=wanted.flip,
            sleeve=wanted.sleeve,
        )
        run = await self._archive.run(request.match_info["id"])
        return view_of_job(self._jobs.start(wanted.work, run, what_if))

    async def _replay(self, request: web.Request) -> Any:
        return view_of_job(self._jobs.find(request.match_info["job"]))

    async def _cancel_replay(self, request: web.Request) -> Any:
        await self._jobs.cancel(request.match_info["job"])
        return view_of_job(self._jobs.find(request.match_info["job"]))

    async def _report(self, request: web.Request) -> web.StreamResponse:
        try:
            page = await self._archive.report(request.match_info["id"])
        except TapewireError as error:
            return await self._no_report(request, error)
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def _compare(self, request: web.Request) -> web.StreamResponse:
        a, b = request.match_info["id"], request.match_info["other"]
        try:
            page = await self._archive.comparison(a, b)
        except TapewireError as error:
            markup = {
                "<!-- title -->": "These runs can't be compared",
                "<!-- run -->": f"{escape(a)} and {escape(b)}",
                "<!-- link -->": "See",
                "<!-- why -->": escape(str(error)),
            }
            return self._render(request, "no-report.html", markup, status=_status_of(error))
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def _no_report(self, request: web.Request, error: TapewireError) -> web.Response:
        requested = request.match_info["id"]
        run = await self._archive.find(requested)
        why = str(error)
        if run is not None and isinstance(error, DataError) and (ended := failure(run)):
            reason = error.message.removesuffix(" yet")
            why = f"{ended} {reason[0].upper()}{reason[1:]}."
        link = f'<a href="{{root}}runs/{quote(run.id)}">Open the run</a>, or see' if run else "See"
        markup = {
            "<!-- title -->": "This run has no report",
            "<!-- run -->": escape(run.id if run else requested),
            "<!-- link -->": link,
            "<!-- why -->": escape(why),
        }
        return self._render(request, "no-report.html", markup, status=_status_of(error))

    async def _command(self, request: web.Request) -> Any:
        if self._agent is None or self._agent.state is None:
            raise UsageError("no agent is running here", hint="this page only shows recorded runs")
        try:
            command = msgspec.json.decode(await request.read(), type=CommandRequest)
        except JSON_DECODE_ERRORS as error:
            raise UsageError(f"malformed command: {error}") from None
        if command.action not in COMMANDS:
            raise UsageError(f"unknown command {command.action!r}", hint=f"use one of {', '.join(COMMANDS)}")
        if command.run != self._agent.state.header.run:
            raise UsageError(
                "the page shows another run than the one that is running", hint="reload the page"
            )
        by = f"dashboard {self._access.address.client(request)}"
        async with asyncio.timeout(timeout_of(command)):
            return await self._agent.command(command.action, arguments(command), by)

    async def _agents(self, _: web.Request) -> Any:
        rows = self._remote.rows()
        live = self._agent is not None
        return {"live": live, "now": WallClock().now(), "agents": rows, "totals": totals_of(rows)}

    async def _command_agent(self, request: web.Request) -> Any:
        try:
            wanted = msgspec.json.decode(await request.read(), type=_AgentCommand)
        except JSON_DECODE_ERRORS as error:
            raise UsageError(f"malformed command: {error}") from None
        client = self._access.address.client(request)
        return await self._remote.command(wanted.agent, wanted.command, client)


async def _add_slash(request: web.Request) -> web.StreamResponse:
    """Redirect `base_path` to `base_path/`, which relative URLs need."""
    return web.Response(status=303, headers={"Location": f"./{request.path.rpartition('/')[2]}/"})


@web.middleware
async def _body_timeout(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return status 408 if the body doesn't arrive in time."""
    if request.body_exists:
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
    return await handler(request)


def _json(work: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Return a handler that sends the result of `work`, or its error, as JSON."""

    @wraps(work)
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=encode(await work(request)), content_type="application/json")
        except TapewireError as error:
            body, status = {"error": error.message, "hint": error.hint}, _status_of(error)
        except TimeoutError:
            body, status = {"error": "the agent did not respond in time", "hint": "see its log"}, 504
        return web.Response(status=status, body=encode(body), content_type="application/json")

    return handle


def _milliseconds(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError(f"{name} must be a time in UTC milliseconds")
    return int(text)


def _status_of(error: TapewireError) -> int:
    if isinstance(error, (ServerBusy, StoreUnavailable)):
        return 503
    if isinstance(error, SafetyError):
        return 403
    if isinstance(error, VenueError):  # another server failed
        return 502
    return 404 if isinstance(error, (DataError, UsageError)) else 500
