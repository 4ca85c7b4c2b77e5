"""The dashboard's HTTP server, in the event loop of the daemon or of `tapewire dashboard`."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from agent.api.api_access import TokenAccess
from agent.api.api_messages import CommandRequest
from agent.api.api_tokens import TokenRegistry
from agent.api.command_arguments import arguments, timeout_of
from agent.api.rest_api import ApiRoutes
from agent.config.services import ApiConfig, DashboardConfig, RemoteAgentConfig
from agent.core.errors import ConfigError, UsageError
from agent.dashboard.access_control import AccessControl
from agent.dashboard.agent_adapter import COMMANDS, AgentAdapter
from agent.dashboard.json_handler import json_handler
from agent.dashboard.page_files import PageFiles
from agent.dashboard.remote_agents import RemoteAgents, totals_of
from agent.dashboard.replay_jobs import ReplayJobs
from agent.dashboard.run_archive import RunArchive
from agent.dashboard.run_routes import RunRoutes
from agent.dashboard.websocket import BrowserSession
from agent.jobs.job_queue import JobQueue
from agent.store.database import Database
from agent.system.clock import Clock, WallClock
from agent.system.listening_sockets import Listener
from agent.system.untrusted import JSON_DECODE_ERRORS

PORTS: Final = 20
"""Number of ports to try, from the configured one on, before any free port is used."""

BODY_TIMEOUT: Final = 10.0
"""Seconds in which the body of a request must arrive."""

API_TOKENS: Final = "api-tokens.json"
"""Name of the file with the tokens of the API, beside the dashboard's token file."""

_LOG_OUT: Final = '<form method="post" action="{root}logout"><button>Log out</button></form>'
_LOGIN_ERRORS: Final = {
    "wrong": "Wrong token.",
    "link": "This login link has been used already, or has expired.",
}


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
        self._files = PageFiles(self._access.address)
        self._runs = RunRoutes(self._archive, self._jobs, self._files, agent)
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
            ("GET", "/assets/{name}", self._files.asset),
            ("GET", "/favicon.ico", self._files.icon),  # for reports, which have no <link rel="icon">
            ("GET", "/login", self._login),
            ("POST", "/login", self._access.log_in),
            ("POST", "/logout", self._access.log_out),
            ("GET", "/api/live", self._live),
            ("POST", "/api/command", json_handler(self._command)),
            ("GET", "/api/agents", json_handler(self._agents)),
            ("POST", "/api/agents/command", json_handler(self._command_agent)),
        ]
        routes += [*self._runs.routes(), *self._api.routes()]
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
        return self._files.render(request, "index.html", {"<!-- log out -->": log_out})

    async def _login(self, request: web.Request) -> web.StreamResponse:
        if self._access.is_authorized(request):
            return web.Response(status=303, headers={"Location": "./"})
        error = next((text for name, text in _LOGIN_ERRORS.items() if name in request.query), "")
        markup = {
            "<!-- error -->": f'<p class="error" role="alert">{error}</p>' if error else "",
            "<!-- file -->": escape(self.token_file.name),
        }
        return self._files.render(request, "login.html", markup)

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
