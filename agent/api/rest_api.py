"""Handlers of the API's routes. `agent.dashboard.access_control` checks host, origin and token first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from aiohttp import web

from agent import __version__
from agent.api.activity_reader import RunActivities, activity_page
from agent.api.api_access import SENDER
from agent.api.api_messages import AccessInfo, CommandRequest, CommandResult, LogPage, Scope
from agent.api.change_feed import ChangeFeed, ChangeStream
from agent.api.command_arguments import arguments, check_fields, timeout_of
from agent.api.configuration_reader import read_configuration
from agent.api.job_routes import JobRoutes
from agent.api.log_reader import log_page
from agent.api.openapi import document
from agent.api.performance_reader import read_performance
from agent.api.problems import RequestProblem, problem_of, problem_response
from agent.api.query_parameters import parse_query
from agent.api.request_body import read_body
from agent.api.round_trips import RoundTrips, selected, trade_table, trades_as_csv
from agent.api.route_table import (
    BASE,
    ROUTES,
    ActivityQuery,
    LogQuery,
    Route,
    RowsQuery,
    TradeTableQuery,
)
from agent.api.run_bars import RunBars
from agent.api.run_messages import ActivityPage, PerformanceReport, RunMetrics, TradePage, TradeTable
from agent.api.run_reader import (
    check_symbol,
    read_equity,
    read_fills,
    read_headlines,
    read_metrics,
    read_orders,
    read_run,
    read_runs,
    read_signals,
    read_trades,
)
from agent.config.services import ApiConfig
from agent.core.errors import TapewireError
from agent.jobs.job_queue import JobQueue
from agent.live import log
from agent.live.interfaces.status import Status
from agent.store.database import Database
from agent.store.queries import find_run
from agent.store.runs import Run, RunStatus
from agent.system.limited_threads import LimitedThreads, ServerBusy
from agent.system.listening_sockets import Listener

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_METRICS: Final = 32  # figures in memory, of ended runs that did not record them
_MAX_PERFORMANCE: Final = 8  # of ended runs, in memory
_LONGEST_NAME: Final = 100
_encode: Final = msgspec.json.Encoder().encode


class ApiAgent(Protocol):
    """The running agent as the API uses it."""

    changes: ChangeFeed

    def status(self) -> Status | None:
        """Return the agent's status; None before its run begins."""
        ...

    async def command(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        """Have a command journalled and executed, and return its result."""
        ...


class ApiRoutes:
    """The handlers; `agent` is None if only recorded runs are served.

    `still_authorized` returns whether the sender of a request that is being answered is still authorized.
    `jobs` is a text with the reason if this server runs none.
    """

    def __init__(
        self,
        config: ApiConfig,
        database: Database,
        agent: ApiAgent | None,
        listener: Listener,
        still_authorized: Callable[[web.Request], bool],
        jobs: JobQueue | str,
    ) -> None:
        self._config = config
        self._database = database
        self._agent = agent
        self._listener = listener
        self._still_authorized = still_authorized
        self._threads = LimitedThreads("api")
        self._streams: set[ChangeStream] = set()
        self._metrics = _OfEndedRuns[RunMetrics](_MAX_METRICS)
        self._performance = _OfEndedRuns[PerformanceReport](_MAX_PERFORMANCE)
        self._trips = RoundTrips(database)
        self._bars = RunBars(database)
        self._activities = RunActivities(database)
        self._rows: dict[str, Callable[[Database, Run, Any], msgspec.Struct]] = {
            "listTrades": self._trades,
            "getTradeTable": self._trade_table,
            "listActivity": self._activity,
            "listBars": lambda _, run, query: self._bars.folded(run, query),
            "listOrders": read_orders,
            "listFills": read_fills,
            "listSignals": read_signals,
            "listNews": read_headlines,
            "listEquity": read_equity,
        }
        self._others: dict[str, Callable[[web.Request, Any], Awaitable[Any]]] = {
            "getState": self._state,
            "getAccess": self._access,
            "listRuns": self._list_runs,
            "sendCommand": self._command,
            "getLog": self._log,
            "getDocument": self._document,
            **JobRoutes(jobs).handlers,
        }
        self._of_a_run: dict[str, Callable[[Run], Any]] = {
            "getRun": lambda run: read_run(self._database, run),
            "getMetrics": self._metrics_of,
            "getPerformance": self._performance_of,
            "getConfiguration": read_configuration,
        }

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return method, path and handler of each route."""
        return [(route.method, f"{BASE}{route.path}", self._handler(route)) for route in ROUTES]

    def abort_streams(self) -> None:
        """Disconnect all streams at once."""
        for stream in list(self._streams):
            stream.abort()

    def close(self) -> None:
        """Wait for the reads of the store that run, and cancel those that wait."""
        self._threads.close()

    def _handler(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                sender = request[SENDER]
                if route.scope not in sender.scopes:
                    self._listener.deny("a scope is missing", sender.name)
                    raise RequestProblem(
                        "insufficient-scope",
                        f"{sender.name} has no scope {route.scope.value}",
                        hint=f"tapewire token add NAME --scope {route.scope.value}",
                    )
                query = parse_query(route.query, request.query)
                if route.stream:
                    return await self._stream(request)
                if route.name == "getTradesAsCsv":
                    return await self._csv(request, query)
                if route.name in self._rows:
                    return await self._rows_of(request, self._rows[route.name], query)
                if route.name in self._of_a_run:
                    return await self._one(request, self._of_a_run[route.name])
                return _respond(await self._others[route.name](request, query))
            except TapewireError as error:
                return problem_response(request, problem_of(error, command=route.body is not None))
            except TimeoutError:
                problem = RequestProblem(
                    "agent-timeout", "the agent did not respond in time", hint="see its log"
                )
                return problem_response(request, problem)

        return handle

    # -- recorded runs ---------------------------------------------------------------------------------------

    async def _list_runs(self, _: web.Request, query: Any) -> Any:
        return await self._threads.run(lambda: read_runs(self._database, query))

    async def _rows_of(
        self,
        request: web.Request,
        read: Callable[[Database, Run, Any], msgspec.Struct],
        query: msgspec.Struct,
    ) -> web.Response:
        """Respond with rows. Those of an ended run don't change, so its record identifies them."""
        run = await self._find(request)
        tag = "" if run.status is RunStatus.RUNNING else _tag(_record_of(run), request.path_qs)
        if tag and _has(request, tag):
            return _not_modified(tag)
        return _respond(await self._threads.run(lambda: read(self._database, run, query)), tag)

    async def _one(self, request: web.Request, read: Callable[[Run], Any]) -> web.Response:
        """Respond with one object. Labels and price files change after the run, so its text identifies it."""
        run = await self._find(request)
        body = _encode(await self._threads.run(lambda: read(run)))
        tag = "" if run.status is RunStatus.RUNNING else _tag(body.decode())
        if tag and _has(request, tag):
            return _not_modified(tag)
        return _respond(msgspec.Raw(body), tag)

    def _metrics_of(self, run: Run) -> RunMetrics:
        return self._metrics.of(run, lambda: read_metrics(self._database, run))

    def _trades(self, _: Database, run: Run, query: RowsQuery) -> TradePage:
        return read_trades(self._trips.of(run), run, query)

    def _trade_table(self, _: Database, run: Run, query: TradeTableQuery) -> TradeTable:
        check_symbol(run, query.symbol)
        return trade_table(self._trips.of(run), query)

    async def _csv(self, request: web.Request, query: Any) -> web.Response:
        run = await self._find(request)
        check_symbol(run, query.symbol)
        text = await self._threads.run(lambda: trades_as_csv(selected(self._trips.of(run), query)))
        headers = {"Content-Disposition": f'attachment; filename="{run.id}-trades.csv"'}
        return web.Response(text=text, content_type="text/csv", charset="utf-8", headers=headers)

    def _performance_of(self, run: Run) -> PerformanceReport:
        def read() -> PerformanceReport:
            trades = [entry.trade for entry in self._trips.of(run)]
            return read_performance(self._database, run, self._metrics_of(run), trades)

        return self._performance.of(run, read)

    def _activity(self, _: Database, run: Run, query: ActivityQuery) -> ActivityPage:
        return activity_page(self._activities.of(run), query)

    async def _find(self, request: web.Request) -> Run:
        name = request.match_info["run"]
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise RequestProblem("no-run", "no run has such an id", where="run", hint="GET /api/v1/runs")
        return await self._threads.run(lambda: find_run(self._database, name))

    # -- the running agent -----------------------------------------------------------------------------------

    def _running(self) -> tuple[ApiAgent, Status]:
        if self._agent is None:
            raise RequestProblem(
                "no-agent",
                "no agent is running here",
                hint="this server only has recorded runs",
            )
        status = self._agent.status()
        if status is None:
            raise ServerBusy("the agent's run has not begun yet", hint="try again in a moment")
        return self._agent, status

    async def _state(self, _: web.Request, __: Any) -> Status:
        return self._running()[1]

    async def _access(self, request: web.Request, _: Any) -> AccessInfo:
        sender = request[SENDER]
        scopes = tuple(one for one in Scope if one in sender.scopes)
        commands = self._config.commands and self._agent is not None and Scope.COMMAND in scopes
        return AccessInfo(__version__, sender.name, scopes, commands)

    async def _log(self, _: web.Request, query: LogQuery) -> LogPage:
        self._running()
        return log_page(log.recent.lines(), query)

    async def _command(self, request: web.Request, _: Any) -> CommandResult:
        if not self._config.commands:
            raise RequestProblem(
                "commands-disabled", "this agent takes no commands from the API", hint="api.commands = true"
            )
        command = await read_body(request, CommandRequest)
        agent, status = self._running()
        check_fields(command)
        if command.run not in ("", status.run):
            raise RequestProblem(
                "invalid-command",
                f"run {command.run[:_LONGEST_NAME]!r} is not running",
                where="run",
                hint=f"the agent's run is {status.run}",
            )
        async with asyncio.timeout(timeout_of(command)):
            result = await agent.command(command.action, arguments(command), request[SENDER].name)
        known = {name: result.pop(name, None) for name in ("action", "event", "risk")}
        return CommandResult(command.action, known["event"], known["risk"] or "", result)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        agent, _ = self._running()
        if len(self._streams) >= self._config.streams:
            raise ServerBusy("too many streams are open", hint="close one, or raise api.streams")
        stream = ChangeStream(
            agent.changes, request, lambda: self._still_authorized(request), self._count_slow
        )
        self._streams.add(stream)
        try:
            return await stream.serve()
        finally:
            self._streams.discard(stream)

    def _count_slow(self) -> None:
        self._listener.status.slow += 1

    async def _document(self, _: web.Request, __: Any) -> Any:
        return document()


class _OfEndedRuns(Generic[T]):
    """What was read of runs that have ended, at most `count` of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._found: OrderedDict[str, T] = OrderedDict()

    def of(self, run: Run, read: Callable[[], T]) -> T:
        """Return what `read` returns; of an ended run it is read once and kept."""
        key = _record_of(run)
        found = self._found.get(key)
        if found is None:
            found = read()
            if run.status is not RunStatus.RUNNING:
                self._found[key] = found
                if len(self._found) > self._count:
                    self._found.popitem(last=False)
        return found


def _record_of(run: Run) -> str:
    parts = run.id, run.status.value, run.finished_at, run.events, run.decisions, run.chain_head
    return " ".join(map(str, parts))


def _tag(*parts: str) -> str:
    return f'"{sha256(" ".join((__version__, *parts)).encode()).hexdigest()[:32]}"'


def _has(request: web.Request, tag: str) -> bool:
    """Return True if If-None-Match names the tag; a proxy may have made it a weak one."""
    given = [one.strip().removeprefix("W/") for one in request.headers.get("If-None-Match", "").split(",")]
    return tag in given or "*" in given


def _not_modified(tag: str) -> web.Response:
    return web.Response(status=304, headers={"ETag": tag, "Cache-Control": "private, no-cache"})


def _respond(value: Any, tag: str = "") -> web.Response:
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"} if tag else {}
    return web.Response(body=_encode(value), content_type="application/json", headers=headers)
