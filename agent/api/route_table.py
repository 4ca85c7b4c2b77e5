"""The routes of the API in one table: path, scope, query parameters, body and response of each.

The server, the OpenAPI document and the tests read it. A new route is a row here and a handler in
`agent.api.rest_api`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from agent.api.api_messages import (
    AccessInfo,
    AgentChange,
    CommandRequest,
    CommandResult,
    Level,
    LogPage,
    Scope,
)
from agent.api.job_messages import DataFileList, JobDetail, JobList, JobRow, StrategyList
from agent.api.run_messages import (
    ActivityPage,
    EquityPage,
    FillPage,
    HeadlinePage,
    OrderPage,
    PerformanceReport,
    PriceBars,
    RunConfiguration,
    RunDetail,
    RunMetrics,
    RunPage,
    SignalPage,
    TradePage,
    TradeTable,
)
from agent.jobs.job_requests import JobRequest
from agent.live.interfaces.status import Status
from strategies.description import StrategyDescription

BASE: Final = "/api/v1"
MAX_LIMIT: Final = 1_000

Time = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Rows of a page.")]
Cursor = Annotated[
    str,
    Meta(pattern="^[A-Za-z0-9_-]{1,200}$", description="`cursor` of an earlier page with the same filters."),
]
Symbol = Annotated[
    str, Meta(pattern="^[A-Za-z0-9._:/-]{1,40}$", description="Only rows of this symbol, such as BTCUSDT.")
]
Text = Annotated[str, Meta(min_length=1, max_length=300)]


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters."""


class RunsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of runs, as those of `tapewire runs`."""

    kind: Annotated[
        Literal["backtest", "live", "walkforward"] | None, Meta(description="Only this kind.")
    ] = None
    strategy: Annotated[Text | None, Meta(description="Only runs of this strategy.")] = None
    symbol: Symbol | None = None
    since: Annotated[Time | None, Meta(description="Only runs started at or after it, UTC ms.")] = None
    tag: Annotated[tuple[Text, ...], Meta(description="Only runs with this tag; may be repeated.")] = ()
    status: Annotated[
        Literal["complete", "running", "failed", "interrupted"] | None, Meta(description="Only this status.")
    ] = None
    cursor: Cursor | None = None
    limit: Limit = 100


class WindowQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of a window of time."""

    since: Annotated[Time | None, Meta(description="Only rows at or after it, UTC ms.")] = None
    until: Annotated[Time | None, Meta(description="Only rows before it, UTC ms.")] = None
    cursor: Cursor | None = None
    limit: Limit = 100


class RowsQuery(WindowQuery, frozen=True, forbid_unknown_fields=True):
    """Rows of a window of time and a symbol."""

    symbol: Symbol | None = None


class StrategyQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which strategy to describe."""

    name: Annotated[
        Text | None, Meta(description="As GET /strategies lists it; without it, the configured one.")
    ] = None


TradeColumn = Literal[
    "entry-time",
    "exit-time",
    "symbol",
    "side",
    "qty",
    "entry-price",
    "exit-price",
    "pnl",
    "return",
    "duration",
    "fees",
    "funding",
    "reason",
    "exit-reason",
    "headline",
]
Offset = Annotated[int, Meta(ge=0, le=2**53 - 1, description="Rows to leave out at the beginning.")]
Words = Annotated[Text | None, Meta(description="Only rows with all of these words.")]


class TradeFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Order and filters of the table of round trips."""

    symbol: Symbol | None = None
    side: Annotated[Literal["long", "short"] | None, Meta(description="Only this side.")] = None
    result: Annotated[
        Literal["won", "lost", "even", "open"] | None,
        Meta(description="Only those with this result, after fees and funding."),
    ] = None
    search: Words = None
    sort: Annotated[TradeColumn, Meta(description="The column to sort by.")] = "entry-time"
    order: Literal["ascending", "descending"] = "descending"


class TradeTableQuery(TradeFilter, frozen=True, forbid_unknown_fields=True):
    """A page of the table of round trips."""

    offset: Offset = 0
    limit: Limit = 100


class ActivityQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filters of what happened in a run."""

    level: Annotated[Level | None, Meta(description="Only this level and more serious ones.")] = None
    search: Words = None
    offset: Offset = 0
    limit: Limit = 100


class BarsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which bars; of the first symbol and of the run's own interval if they are left out."""

    symbol: Symbol | None = None
    interval: Annotated[
        Literal["1m", "5m", "15m", "1h", "4h", "1d"] | None, Meta(description="Length of a bar.")
    ] = None
    until: Annotated[Time | None, Meta(description="Only bars that closed until it, UTC ms.")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Number of bars.")] = 300


class LogQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filters of the agent's log."""

    level: Annotated[Level | None, Meta(description="Only this level and more serious ones.")] = None
    search: Words = None
    after: Annotated[Time, Meta(description="Only lines with a larger number.")] = 0
    limit: Limit = 100


class Route(NamedTuple):
    """A route below `BASE`. `stream` routes send server-sent events, each a message of the response's type.

    `etag` states that responses on runs that have ended carry an ETag. Of another `media` type than JSON, the
    response is text.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    scope: Scope
    response: Any  # a type
    summary: str
    query: type[msgspec.Struct] = NoQuery
    body: Any = None  # a type
    etag: bool = False
    stream: bool = False
    media: str = "application/json"


_READ: Final = Scope.READ
ROUTES: Final = (
    Route("getState", "GET", "/state", _READ, Status, "The running agent, as `tapewire status --json`."),
    Route(
        "getAccess", "GET", "/access", _READ, AccessInfo, "What the token allows, and the server's version."
    ),
    Route("listRuns", "GET", "/runs", _READ, RunPage, "Recorded runs, newest first.", RunsQuery),
    Route("getRun", "GET", "/runs/{run}", _READ, RunDetail, "A run.", etag=True),
    Route(
        *("listTrades", "GET", "/runs/{run}/trades", _READ, TradePage),
        "Round trips by the time of their entry, in the order of their entries.",
        RowsQuery,
        etag=True,
    ),
    Route(
        *("getTradeTable", "GET", "/runs/{run}/trade-table", _READ, TradeTable),
        "Round trips, sorted and filtered, with sums over those that match.",
        TradeTableQuery,
        etag=True,
    ),
    Route(
        *("getTradesAsCsv", "GET", "/runs/{run}/trades.csv", _READ, str),
        "All round trips that match, as CSV.",
        TradeFilter,
        media="text/csv",
    ),
    Route("listOrders", "GET", "/runs/{run}/orders", _READ, OrderPage, "Orders.", RowsQuery, etag=True),
    Route("listFills", "GET", "/runs/{run}/fills", _READ, FillPage, "Executions.", RowsQuery, etag=True),
    Route("listSignals", "GET", "/runs/{run}/signals", _READ, SignalPage, "Signals.", RowsQuery, etag=True),
    Route(
        *("listNews", "GET", "/runs/{run}/news", _READ, HeadlinePage),
        "Headlines with their scores, by the time when they became available.",
        RowsQuery,
        etag=True,
    ),
    Route(
        *("getMetrics", "GET", "/runs/{run}/metrics", _READ, RunMetrics),
        "The figures of a run, as `tapewire report --json`.",
        etag=True,
    ),
    Route(
        *("getPerformance", "GET", "/runs/{run}/performance", _READ, PerformanceReport),
        "The figures of a run, its round trips in groups, and its worst drawdowns.",
        etag=True,
    ),
    Route(
        *("getConfiguration", "GET", "/runs/{run}/configuration", _READ, RunConfiguration),
        "Settings with their defaults, versions, inputs, and cards of models.",
        etag=True,
    ),
    Route(
        *("listActivity", "GET", "/runs/{run}/activity", _READ, ActivityPage),
        "Changes of risk, commands, notes and rejected orders, newest first.",
        ActivityQuery,
        etag=True,
    ),
    Route(
        *("listBars", "GET", "/runs/{run}/bars", _READ, PriceBars),
        "The latest bars of a symbol until a time, folded to an interval.",
        BarsQuery,
        etag=True,
    ),
    Route(
        *("listEquity", "GET", "/runs/{run}/equity", _READ, EquityPage),
        "Samples of the account.",
        WindowQuery,
        etag=True,
    ),
    Route("listJobs", "GET", "/jobs", _READ, JobList, "Jobs, newest first."),
    Route(
        *("getJob", "GET", "/jobs/{job}", _READ, JobDetail),
        "A job with the end of its log and its result.",
    ),
    Route(
        *("startJob", "POST", "/jobs", Scope.RESEARCH, JobRow),
        "Start a backtest, a study, a check, a download or an import; needs jobs.enabled.",
        body=JobRequest,
    ),
    Route(
        *("cancelJob", "POST", "/jobs/{job}/cancel", Scope.RESEARCH, JobRow),
        "End a job and its processes; one that has ended stays as it is.",
    ),
    Route("listData", "GET", "/data", _READ, DataFileList, "Files that jobs may read."),
    Route("listStrategies", "GET", "/strategies", _READ, StrategyList, "Strategies that jobs may run."),
    Route(
        *("getStrategy", "GET", "/strategy", Scope.RESEARCH, StrategyDescription),
        "A strategy with the bounds of its parameters; its file is imported in a process.",
        StrategyQuery,
    ),
    Route(
        *("sendCommand", "POST", "/commands", Scope.COMMAND, CommandResult),
        "Have the running agent journal and execute a command; needs api.commands = true.",
        body=CommandRequest,
    ),
    Route(
        *("streamChanges", "GET", "/events", _READ, AgentChange),
        "Changes at the running agent, as server-sent events; Last-Event-ID continues after a message.",
        stream=True,
    ),
    Route(
        *("getLog", "GET", "/log", _READ, LogPage),
        "The latest lines of the running agent's log.",
        LogQuery,
    ),
    Route("getDocument", "GET", "/openapi.json", _READ, dict[str, Any], "This document, OpenAPI 3.1."),
)
