"""A typed client of the REST API, with the structs that the server uses.

with tapewire.Client("http://127.0.0.1:8610", token) as client:
    for entry in client.trades("latest", symbol="BTCUSDT"):
        print(entry.trade.entry_ts, entry.trade.pnl)
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from agent import __version__
from agent.api.api_messages import (
    AccessInfo,
    Action,
    AgentChange,
    CommandRequest,
    CommandResult,
    LogPage,
    Problem,
    StreamReset,
)
from agent.api.job_messages import DataFileList, JobDetail, JobList, JobRow, StrategyList
from agent.api.route_table import BASE, MAX_LIMIT
from agent.api.run_messages import (
    EquityPage,
    EquityPoint,
    FillEntry,
    FillPage,
    HeadlineEntry,
    HeadlinePage,
    OrderEntry,
    OrderPage,
    PerformanceReport,
    RunConfiguration,
    RunDetail,
    RunEntry,
    RunMetrics,
    RunPage,
    SignalEntry,
    SignalPage,
    TradeEntry,
    TradePage,
)
from agent.core.errors import SafetyError, TapewireError, UsageError
from agent.jobs.job_records import JobState
from agent.jobs.job_requests import JobRequest
from agent.live.interfaces.status import Status
from agent.system.addresses import is_loopback_host
from agent.system.secret import Secret
from agent.system.untrusted import JSON_DECODE_ERRORS
from strategies.description import StrategyDescription

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

_LONGEST_WAIT: Final = 60  # seconds that a request waits for its rate limit
_TRIES: Final = 3  # of a request that the rate limit refuses, or on a connection that the server has closed
_STREAM_PAUSE: Final = 2.0  # seconds before a stream is opened again
_STREAM_SILENCE: Final = 60.0  # seconds without a comment of the server after which a stream is lost


class ApiError(TapewireError):
    """A request that failed. `problem` is what the server stated; None if the API didn't respond.

    `status` is the HTTP status; 0 without a response.
    """

    def __init__(
        self, message: str, *, hint: str = "", status: int = 0, problem: Problem | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.problem = problem


class _Page(Protocol[R_co]):
    @property
    def cursor(self) -> str: ...

    @property
    def more(self) -> bool: ...

    @property
    def items(self) -> tuple[R_co, ...]: ...


class Client:
    """A client of the agent's server at `url`, or of that of `tapewire dashboard`; use it in one thread.

    Args:
        url: Address of the server, with the path under which a proxy serves it.
        token: Made by `tapewire token add`.
        timeout: Seconds to wait for a response.
        allow_plain: Send the token to another machine over plain HTTP, where the network can read it.

    Methods raise ApiError, and UsageError for fields that don't exist or have another type. A request beyond
    the token's rate limit is repeated after the time that the server names, if it is at most a minute.
    Redirects and proxies of the environment are not followed.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 60.0, allow_plain: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise UsageError(
                f"{url.partition('?')[0]!r} is not the address of a server",
                hint="such as http://127.0.0.1:8610",
            )
        if parts.scheme == "http" and not allow_plain and not is_loopback_host(parts.hostname):
            raise SafetyError(
                f"the token would reach {parts.hostname} without encryption",
                hint="use https, a tunnel, or allow_plain=True if you trust the network",
            )
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + BASE
        self._token = Secret(token.strip())
        self._timeout = timeout
        self._connection: HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- recorded runs ---------------------------------------------------------------------------------

    def runs(self, **filters: str | int | tuple[str, ...] | None) -> Iterator[RunEntry]:
        """Iterate over the recorded runs, newest first.

        Filters: kind, strategy, symbol, since (UTC ms), tag, status.
        """
        return self._pages("/runs", RunPage, filters)

    def run(self, run: str = "latest") -> RunDetail:
        """Return a run; `run` is its id, the first characters of it, or `latest`."""
        return self._get(_of_run(run), RunDetail)

    def metrics(self, run: str = "latest") -> RunMetrics:
        """Return the figures of a run's report."""
        return self._get(_of_run(run, "metrics"), RunMetrics)

    def performance(self, run: str = "latest") -> PerformanceReport:
        """Return a run's figures, its closed round trips in groups, and its worst drawdowns."""
        return self._get(_of_run(run, "performance"), PerformanceReport)

    def configuration(self, run: str = "latest") -> RunConfiguration:
        """Return what a run ran with: settings and their defaults, versions, inputs, models."""
        return self._get(_of_run(run, "configuration"), RunConfiguration)

    def trades(
        self, run: str = "latest", *, symbol: str = "", since: int | None = None, until: int | None = None
    ) -> Iterator[TradeEntry]:
        """Iterate over round trips in the order of their entries; `since` <= entry (UTC ms) < `until`."""
        return self._pages(_of_run(run, "trades"), TradePage, _window(symbol, since, until))

    def orders(
        self, run: str = "latest", *, symbol: str = "", since: int | None = None, until: int | None = None
    ) -> Iterator[OrderEntry]:
        """Iterate over orders with their last states."""
        return self._pages(_of_run(run, "orders"), OrderPage, _window(symbol, since, until))

    def fills(
        self, run: str = "latest", *, symbol: str = "", since: int | None = None, until: int | None = None
    ) -> Iterator[FillEntry]:
        """Iterate over executions."""
        return self._pages(_of_run(run, "fills"), FillPage, _window(symbol, since, until))

    def signals(
        self, run: str = "latest", *, symbol: str = "", since: int | None = None, until: int | None = None
    ) -> Iterator[SignalEntry]:
        """Iterate over signals."""
        return self._pages(_of_run(run, "signals"), SignalPage, _window(symbol, since, until))

    def news(
        self, run: str = "latest", *, symbol: str = "", since: int | None = None, until: int | None = None
    ) -> Iterator[HeadlineEntry]:
        """Iterate over headlines with their scores; the times are those at which they became available."""
        return self._pages(_of_run(run, "news"), HeadlinePage, _window(symbol, since, until))

    def equity(
        self, run: str = "latest", *, since: int | None = None, until: int | None = None
    ) -> Iterator[EquityPoint]:
        """Iterate over the samples of the account."""
        return self._pages(_of_run(run, "equity"), EquityPage, _window("", since, until))

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return self._get("/openapi.json", dict[str, Any])

    # -- jobs ------------------------------------------------------------------------------------------

    def start_job(self, kind: str, **fields: Any) -> JobRow:
        """Have the server start a job; kinds and fields are those of `agent.jobs.job_requests`.

        It is sent once. If no response comes, look at `jobs` before sending it again.
        """
        body = _body({"kind": kind, **fields}, JobRequest)
        found: JobRow = self._decode(self._request("POST", "/jobs", body), JobRow)
        return found

    def jobs(self) -> tuple[JobRow, ...]:
        """Return the jobs, newest first."""
        return self._get("/jobs", JobList).items

    def job(self, job: str) -> JobDetail:
        """Return a job with the end of its log and its result."""
        return self._get(f"/jobs/{quote(job, safe='')}", JobDetail)

    def cancel_job(self, job: str) -> JobRow:
        """End a job and its processes."""
        body = self._request("POST", f"/jobs/{quote(job, safe='')}/cancel", b"")
        found: JobRow = self._decode(body, JobRow)
        return found

    def wait_for_job(self, job: str, *, every: float = 1.0) -> JobDetail:
        """Return a job once it has ended; `every` is the time in seconds between two requests."""
        while True:
            row = next((one for one in self.jobs() if one.id == job), None)
            if row is None or JobState(row.state).is_end:
                return self.job(job)
            time.sleep(every)

    def data(self) -> DataFileList:
        """Return the files that jobs may read. While it is `reading`, facts are missing: call it again."""
        return self._get("/data", DataFileList)

    def strategies(self) -> StrategyList:
        """Return the strategies that jobs may run."""
        return self._get("/strategies", StrategyList)

    def strategy(self, name: str) -> StrategyDescription:
        """Return a strategy with the bounds of its parameters."""
        return self._get(f"/strategy?{urlencode({'name': name})}", StrategyDescription)

    # -- the running agent -----------------------------------------------------------------------------

    def state(self) -> Status:
        """Return the running agent's status."""
        return self._get("/state", Status)

    def access(self) -> AccessInfo:
        """Return what the token allows, and the server's version."""
        return self._get("/access", AccessInfo)

    def log(self, *, level: str = "", search: str = "", after: int = 0) -> LogPage:
        """Return the latest lines of the agent's log: of a level and above, with words, after a number."""
        given = {"level": level, "search": search, "after": after or ""}
        query = urlencode({name: value for name, value in given.items() if value != ""})
        return self._get(f"/log?{query}" if query else "/log", LogPage)

    def command(self, action: Action, **fields: Any) -> CommandResult:
        """Have the agent journal and execute a command; the fields are those of `CommandRequest`.

        It is sent once. If no response comes, read `state` before sending it again.
        """
        body = _body({"action": action, **fields}, CommandRequest)
        result: CommandResult = self._decode(self._request("POST", "/commands", body), CommandResult)
        return result

    def pause(self) -> CommandResult:
        """Open no new positions."""
        return self.command("pause")

    def resume(self, confirm: str = "") -> CommandResult:
        """Trade again; after a kill `confirm` must be "resume from kill"."""
        return self.command("resume", confirm=confirm)

    def flatten(self, symbol: str = "") -> CommandResult:
        """Close all positions, or that of `symbol`."""
        return self.command("flatten", symbol=symbol)

    def kill(self, *, flatten: bool = False, reason: str = "") -> CommandResult:
        """Cancel all orders and halt until an operator resumes; with `flatten`, close all positions."""
        return self.command("kill", flatten=flatten, reason=reason)

    def changes(self, after: str = "", *, reconnect: bool = True) -> Iterator[AgentChange | StreamReset]:
        """Iterate over the changes at the running agent, from now on or after the one with the key `after`.

        A lost connection is opened again, and continues after the last change, unless `reconnect` is False. A
        StreamReset states that changes were missed: read the lists anew.
        """
        while True:
            try:
                for change in self._stream(after):
                    after = change.key if isinstance(change, AgentChange) else after
                    yield change
            except ApiError as error:
                if not reconnect or (error.status and error.status != 503):
                    raise
            if not reconnect:
                return
            time.sleep(_STREAM_PAUSE)

    # -- requests --------------------------------------------------------------------------------------

    def _pages(self, path: str, kind: type[_Page[T]], filters: Mapping[str, Any]) -> Iterator[T]:
        query = {name: value for name, value in filters.items() if value not in (None, "", ())}
        query.setdefault("limit", MAX_LIMIT)
        while True:
            page = self._get(f"{path}?{urlencode(query, doseq=True)}", kind)
            yield from page.items
            if not page.more:
                return
            query["cursor"] = page.cursor

    def _get(self, path: str, kind: type[T]) -> T:
        found: T = self._decode(self._request("GET", path), kind)
        return found

    def _decode(self, body: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except JSON_DECODE_ERRORS as error:
            raise ApiError(
                f"{self._host}: the response is not that of this version's API: {error}",
                hint=f"this client is of Tapewire {__version__}",
            ) from None

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        for tries in range(1, _TRIES + 1):
            last = tries == _TRIES
            fresh = self._connection is None
            try:
                response = self._send(method, path, body, {})
                content = response.read()
            except (OSError, HTTPException) as error:
                self.close()
                if method != "GET" or fresh or last:  # a command may have arrived
                    raise self._lost(error) from None
                continue
            if response.status < 300:
                return content
            wait = response.headers.get("Retry-After", "")
            limited = response.status == 429 and wait.isdigit() and int(wait) <= _LONGEST_WAIT
            if not limited or last:
                raise self._refused(response.status, content)
            time.sleep(int(wait))
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        if self._connection is None:
            self._connection = self._connect(self._timeout)
        return self._ask(self._connection, method, path, body, headers)

    def _connect(self, timeout: float) -> HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        return HTTPConnection(self._host, self._port, timeout=timeout)

    def _ask(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> HTTPResponse:
        own = {"Authorization": f"Bearer {self._token.reveal()}", "User-Agent": f"tapewire/{__version__}"}
        if body is not None:
            own["Content-Type"] = "application/json"
        connection.request(method, f"{self._path}{path}", body, own | headers)
        return connection.getresponse()

    def _stream(self, after: str) -> Iterator[AgentChange | StreamReset]:
        connection = self._connect(_STREAM_SILENCE)
        try:
            response = self._ask(
                connection, "GET", "/events", None, {"Last-Event-ID": after} if after else {}
            )
            if response.status != 200:
                raise self._refused(response.status, response.read())
            kind = ""
            for raw in response:
                line = raw.decode().rstrip("\r\n")
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = line.removeprefix("data: ").encode()
                    yield self._decode(data, StreamReset if kind == "reset" else AgentChange)
        except (OSError, HTTPException) as error:
            raise self._lost(error) from None
        finally:
            connection.close()

    def _lost(self, error: Exception) -> ApiError:
        return ApiError(
            f"{self._host}: {type(error).__name__}: {error}", hint="check the address and that the agent runs"
        )

    def _refused(self, status: int, content: bytes) -> ApiError:
        try:
            problem = msgspec.json.decode(content, type=Problem)
        except JSON_DECODE_ERRORS:
            return ApiError(f"{self._host}: status {status}, but no answer of the API", status=status)
        return ApiError(problem.detail, hint=problem.hint, status=status, problem=problem)


def _of_run(run: str, part: str = "") -> str:
    return f"/runs/{quote(run, safe='')}" + (f"/{part}" if part else "")


def _body(fields: dict[str, Any], kind: Any) -> bytes:
    try:
        return msgspec.json.encode(msgspec.convert(fields, kind))
    except msgspec.ValidationError as error:
        raise UsageError(f"the request is not valid: {error}", hint="GET /api/v1/openapi.json") from None


def _window(symbol: str, since: int | None, until: int | None) -> dict[str, str | int | None]:
    return {"symbol": symbol, "since": since, "until": until}
