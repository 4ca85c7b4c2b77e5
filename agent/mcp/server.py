"""The MCP server: lists and calls the tools, reads resources, and runs jobs with progress and cancellation.

Importing this module needs the extra `mcp`. The transports are `agent.mcp.transports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple

import anyio
import mcp_types as types
import msgspec
import structlog
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from agent import __version__
from agent.api.api_messages import Scope
from agent.api.route_table import RunsQuery
from agent.api.run_reader import read_metrics, read_run, read_runs
from agent.config import Config
from agent.core.errors import SafetyError, TapewireError, UsageError, did_you_mean
from agent.data.text import one_line
from agent.jobs.job_queue import JobQueue
from agent.jobs.job_records import JobState
from agent.live.control_socket import ControlRequest, send_request
from agent.mcp import documents
from agent.mcp.tool_table import COMMAND_TOOL, JOB_TOOLS, READ_TOOLS, CommandQuery, Surroundings, Tool
from agent.store.database import open_database
from agent.store.queries import find_run
from agent.system.limited_threads import LimitedThreads

INSTRUCTIONS: Final = (
    "Tapewire replays strategies on market data and judges them honestly. Every backtest, variant of a "
    "sweep, trial, walk-forward and check that shows a return is recorded in a ledger of tries, and Sharpe "
    "ratios are deflated by all tries on the same data: more tries make a good result less credible. Prefer "
    "few, reasoned tries; judge "
    "by walkforward; state the deflated Sharpe ratio and all stamps with every result. Read the "
    "documentation with search_docs and read_doc."
)

MAX_ANSWER: Final = 1_000_000
"""Bytes of an answer; more would fill an assistant's memory."""

_RUNS: Final = 50  # that are listed as resources
_POLL: Final = 0.2  # seconds between two looks at a job
_KILL_TIMEOUT: Final = 60.0  # seconds to wait for the agent's reply
_NAME: Final = 60  # characters of a client's name
_DOCS: Final = "tapewire://docs/"
_RUN: Final = "tapewire://runs/"
_log: Final = structlog.get_logger(__name__)

Context = ServerRequestContext[Any, Any]


class Caller(NamedTuple):
    """Who calls: the name for ledger and journal, and what it may do."""

    by: str
    scopes: frozenset[Scope]


ALL_SCOPES: Final = frozenset(Scope)


class AssistantServer:
    """Serves the tools. `config` is that of the store, data folders and agent; `queue` runs the jobs.

    `template` returns the source of a strategy by name and template. `sender` returns the name and scopes of
    the token that a request came with; None: any request is the user's own.
    """

    def __init__(
        self,
        config: Config,
        queue: JobQueue,
        template: Callable[[str, str], str],
        sender: Callable[[Context], tuple[str, frozenset[Scope]]] | None = None,
    ) -> None:
        self._config = config
        self._queue = queue
        self._sender = sender
        self._at = Surroundings(config, queue, template)
        self._threads = LimitedThreads("mcp")
        offered = [*READ_TOOLS]
        offered += JOB_TOOLS if config.jobs.enabled else ()
        offered += (COMMAND_TOOL,) if config.mcp.commands else ()
        self._tools = {tool.name: tool for tool in offered}
        self.protocol: Server[Any] = Server(
            "tapewire",
            version=__version__,
            title="Tapewire",
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    async def close(self) -> None:
        """End all jobs."""
        await self._queue.close()
        self._threads.close()

    def _caller(self, context: Context) -> Caller:
        known = context.session.client_params
        client = one_line(known.client_info.name, _NAME) if known is not None else ""
        by = f"mcp {client or 'unnamed'}"
        if self._sender is None:
            return Caller(by, ALL_SCOPES)
        token, scopes = self._sender(context)
        return Caller(f"{by} ({token})", scopes)

    # -- tools -----------------------------------------------------------------------------------------------

    async def _list_tools(self, context: Context, _: Any) -> types.ListToolsResult:
        scopes = self._caller(context).scopes
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.input_schema(),
                    output_schema=tool.output_schema(),
                    annotations=types.ToolAnnotations(
                        read_only_hint=tool.scope is Scope.READ,
                        destructive_hint=tool.scope is Scope.COMMAND,
                        open_world_hint=False,
                    ),
                )
                for tool in self._tools.values()
                if tool.scope in scopes
            ]
        )

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            answer = await self._call(context, params.name, dict(params.arguments or {}))
            encoded = msgspec.json.encode(answer)
            if len(encoded) > MAX_ANSWER:
                raise UsageError(
                    f"{params.name}: the answer has {len(encoded):,} bytes, more than {MAX_ANSWER:,}",
                    hint="ask for less: a shorter window, fewer variants, one order",
                )
        except TapewireError as error:
            text = one_line(str(error), 2_000)
            return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
        return types.CallToolResult(
            content=[types.TextContent(text=encoded.decode())],
            structured_content=msgspec.json.decode(encoded),
        )

    async def _call(self, context: Context, name: str, arguments: dict[str, Any]) -> Any:
        caller = self._caller(context)
        tool = self._tools.get(name)
        if name == COMMAND_TOOL.name and tool is None:
            raise SafetyError(
                "commands of assistants are refused",
                hint="a person may allow them: mcp.commands = true in the configuration",
            )
        if tool is None and any(one.name == name for one in JOB_TOOLS):
            raise UsageError(f"{name} is a job, and jobs are off", hint="jobs.enabled = true allows them")
        if tool is None:
            raise UsageError(
                f"there is no tool {name[:_NAME]!r}",
                hint=did_you_mean(name[:_NAME], self._tools, f"one of {', '.join(self._tools)}"),
            )
        if tool.scope not in caller.scopes:
            raise SafetyError(
                f"{name} needs a token with the scope {tool.scope.value}",
                hint=f"tapewire token add NAME --scope {tool.scope.value}",
            )
        query = tool.parse(arguments)
        if tool.read is not None:
            read = tool.read
            if iscoroutinefunction(read):
                return await read(self._at, query)
            return await self._threads.run(lambda: read(self._at, query))
        if isinstance(query, CommandQuery):
            return await self._command(query, caller)
        return await self._run_job(context, tool, query, caller)

    async def _run_job(self, context: Context, tool: Tool, query: Any, caller: Caller) -> Any:
        """Run a job to its end and report its progress. If the request is cancelled, so is the job."""
        job = await self._queue.start(query, by=caller.by)
        try:
            end = asyncio.ensure_future(self._queue.wait(job.id))
            shown = -1.0, ""
            while not end.done():
                await asyncio.wait({end}, timeout=_POLL)
                now = job.share, job.line
                if now != shown and job.share >= shown[0]:  # progress must increase
                    shown = now
                    await context.session.report_progress(job.share, 1.0, job.line or job.state.value)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._queue.cancel(job.id)
            raise
        ended = await end
        if ended.state is not JobState.DONE:
            raise TapewireError(ended.error or f"the job is {ended.state.value}", hint=ended.hint)
        found = await self._queue.result(job.id)
        if found is None or tool.shape is None:
            raise TapewireError(f"{tool.name} left no result", hint="see the server's log")
        try:
            return msgspec.convert(tool.shape(msgspec.json.decode(found)), tool.gives)
        except msgspec.ValidationError as error:
            raise TapewireError(f"{tool.name}: unexpected result: {error}", hint="please report it") from None

    async def _command(self, query: CommandQuery, caller: Caller) -> dict[str, Any]:
        """Send a command to the agent in `live.folder`, which journals it with the caller's name."""
        args = {"reason": query.reason} if query.reason else {}
        args |= {"confirm": query.confirm} if query.confirm else {}
        args |= {"flatten": "true"} if query.flatten else {}
        allowed = {"kill": {"reason", "flatten"}, "resume": {"confirm"}}.get(query.action, set())
        if needless := args.keys() - allowed:
            raise UsageError(f"{', '.join(sorted(needless))} has no effect on {query.action}")
        request = ControlRequest(query.action, args, sender=caller.by)
        _log.warning("an assistant sends a command", command=query.action, by=caller.by)
        reply = await self._threads.run(
            lambda: send_request(self._config.live.folder, request, timeout=_KILL_TIMEOUT)
        )
        return {"reply": reply}

    # -- resources -------------------------------------------------------------------------------------------

    async def _list_resources(self, context: Context, _: Any) -> types.ListResourcesResult:
        self._check_reads(context)
        pages = await self._threads.run(documents.list_pages)
        found = [
            types.Resource(
                uri=f"{_DOCS}{page.page}", name=page.page, title=page.title, mime_type="text/markdown"
            )
            for page in pages
        ]
        runs = await self._threads.run(self._newest_runs)
        found += [
            types.Resource(uri=f"{_RUN}{name}", name=name, title=title, mime_type="application/json")
            for name, title in runs
        ]
        return types.ListResourcesResult(resources=found)

    async def _list_templates(self, context: Context, _: Any) -> types.ListResourceTemplatesResult:
        self._check_reads(context)
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    uri_template=f"{_DOCS}{{page}}", name="documentation", mime_type="text/markdown"
                ),
                types.ResourceTemplate(
                    uri_template=f"{_RUN}{{run}}", name="run", mime_type="application/json"
                ),
            ]
        )

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        self._check_reads(context)
        uri = str(params.uri)
        try:
            if uri.startswith(_DOCS):
                text = (await self._threads.run(lambda: documents.read(uri.removeprefix(_DOCS)))).text
                kind = "text/markdown"
            elif uri.startswith(_RUN):
                text = await self._threads.run(lambda: self._run_text(uri.removeprefix(_RUN)))
                kind = "application/json"
            else:
                raise UsageError(f"there is no resource {uri[:_NAME]!r}", hint=f"{_DOCS}PAGE or {_RUN}RUN")
        except TapewireError as error:
            raise MCPError(code=types.INVALID_PARAMS, message=one_line(str(error), 2_000)) from None
        contents = types.TextResourceContents(uri=params.uri, text=text, mime_type=kind)
        return types.ReadResourceResult(contents=[contents])

    def _check_reads(self, context: Context) -> None:
        if Scope.READ not in self._caller(context).scopes:
            message = "resources need a token with the scope read"
            raise MCPError(code=types.INVALID_PARAMS, message=message)

    def _newest_runs(self) -> list[tuple[str, str]]:
        try:
            with closing(open_database(self._config.store.url, create=False)) as database:
                page = read_runs(database, RunsQuery(limit=_RUNS))
        except TapewireError:
            return []  # the store doesn't exist yet
        return [(run.id, f"{run.strategy} on {', '.join(run.symbols)}") for run in page.items]

    def _run_text(self, name: str) -> str:
        with closing(open_database(self._config.store.url, create=False)) as database:
            run = find_run(database, name)
            known: dict[str, Any] = {"detail": read_run(database, run)}
            if run.metrics:
                known["metrics"] = read_metrics(database, run)
        return msgspec.json.encode(known).decode()
