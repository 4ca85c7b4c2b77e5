"""The tools: name, description, input, output, the scope that allows them, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from agent.api.api_messages import Scope
from agent.api.job_messages import DataFileList
from agent.api.job_routes import list_data
from agent.api.route_table import RunsQuery
from agent.api.run_messages import RunPage
from agent.api.run_reader import read_metrics, read_runs
from agent.config import Config
from agent.core.errors import UsageError
from agent.jobs import job_requests as requests
from agent.jobs.job_queue import JobQueue
from agent.mcp import answers, documents
from agent.mcp.run_requests import DiffRequest, ExplainRequest, RunName, ScoreRequest, TwinRequest
from agent.store.database import open_database
from agent.store.queries import find_run
from agent.system.json_schemas import allow_null

_RESEARCH: Final = (
    "Counts as a try in the ledger, whoever asks: the answer's Sharpe ratio is deflated by all tries on the "
    "same data."
)


class Surroundings(NamedTuple):
    """What tools that read need of the server."""

    config: Config
    queue: JobQueue
    template: Callable[[str, str], str]


class Tool(NamedTuple):
    """A tool. It either reads, or is a job whose printed JSON `shape` turns into the result.

    `read` is called in a thread, unless it is a coroutine function.
    """

    name: str
    description: str
    scope: Scope
    takes: type[msgspec.Struct]
    gives: type[msgspec.Struct]
    read: Callable[[Surroundings, Any], Any] | None = None
    shape: Callable[[Any], Any] | None = None

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the arguments."""
        schema = _schema_of(self.takes)
        tag = self.takes.__struct_config__.tag_field
        if tag is not None:
            schema["properties"].pop(tag, None)
            schema["required"] = [name for name in schema.get("required", ()) if name != tag]
        return schema

    def output_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the result."""
        return _schema_of(self.gives)

    def parse(self, arguments: dict[str, Any]) -> Any:
        """Return the arguments as a struct. Raises UsageError in one line that names what was wrong."""
        config = self.takes.__struct_config__
        if config.tag_field is not None:
            if config.tag_field in arguments:
                raise UsageError(f"{self.name}: there is no argument {config.tag_field!r}")
            arguments = arguments | {config.tag_field: config.tag}
        try:
            return msgspec.convert(arguments, self.takes)
        except msgspec.ValidationError as error:
            names = ", ".join(name for name in self.takes.__struct_fields__) or "none"
            raise UsageError(f"{self.name}: {error}", hint=f"arguments: {names}") from None


def _schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a schema whose top is the object itself, as the protocol demands."""
    schema: dict[str, Any] = allow_null(msgspec.json.schema(kind))
    definitions = schema.pop("$defs")
    top: dict[str, Any] = definitions.pop(schema["$ref"].rpartition("/")[2])
    return top | ({"$defs": definitions} if definitions else {})


# -- what reads -----------------------------------------------------------------------------------------


class RunQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run."""

    run: RunName = "latest"


class TriesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run or a study; neither: list the studies."""

    run: RunName | None = None
    study: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,12}$", description="Id of a study.")] | None = None


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class TemplateQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which template, and the name of the file without .py."""

    template: Literal["sma", "news", "empty"] = "sma"
    name: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")] = "mine"


class DocsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words to look for."""

    query: Annotated[str, Meta(min_length=1, max_length=200)]
    limit: Annotated[int, Meta(ge=1, le=30)] = 8


class DocQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page, and the title of a section; without one, the whole page."""

    page: Annotated[str, Meta(min_length=1, max_length=80)]
    section: Annotated[str, Meta(max_length=200)] = ""


class CommandQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command to the running agent."""

    action: Literal["pause", "resume", "halt", "flatten", "kill"]
    flatten: Annotated[bool, Meta(description="kill: also close all positions.")] = False
    reason: Annotated[str, Meta(max_length=200, description="kill: why, for the journal.")] = ""
    confirm: Annotated[str, Meta(max_length=40, description='After a kill: "resume from kill".')] = ""


def _list_runs(at: Surroundings, query: RunsQuery) -> RunPage:
    with closing(open_database(at.config.store.url, create=False)) as database:
        return read_runs(database, query)


def run_figures(at: Surroundings, query: RunQuery) -> answers.FiguresAnswer:
    """Return the figures of a run's report."""
    from agent.analysis.report.report_loader import load_report_data
    from agent.analysis.report.verdict import verdict_of

    with closing(open_database(at.config.store.url, create=False)) as database:
        run = find_run(database, query.run)
        data = load_report_data(database, run.id)
        metrics = read_metrics(database, run).metrics
    return answers.FiguresAnswer(run.id, verdict_of(data), metrics, list(data.notes))


def _list_tries(at: Surroundings, query: TriesQuery) -> answers.TriesAnswer:
    from agent.analysis.study_list import list_studies, list_tries
    from agent.store.tries import find_study, study_of_run

    with closing(open_database(at.config.store.url, create=False)) as database:
        if query.run is None and query.study is None:
            return answers.TriesAnswer(studies=list_studies(database))
        if query.study is not None:
            study = find_study(database, query.study)
        else:
            name = query.run or ""
            found = study_of_run(database, name) or study_of_run(database, find_run(database, name).id)
            if found is None:
                raise UsageError(f"run {name} is not among the tries", hint="list_tries without arguments")
            study = found
        tries = list_tries(database, study)
    return answers.TriesAnswer(study=study, count=len(tries), tries=tries)


def _list_strategies(at: Surroundings, _: Nothing) -> answers.StrategiesAnswer:
    return answers.StrategiesAnswer(at.queue.strategies.all())


def _template(at: Surroundings, query: TemplateQuery) -> answers.TemplateAnswer:
    return answers.TemplateAnswer(f"{query.name}.py", at.template(query.name, query.template))


async def _list_data(at: Surroundings, _: Nothing) -> DataFileList:
    return await list_data(at.queue)


def _search_docs(_: Surroundings, query: DocsQuery) -> answers.DocsAnswer:
    return answers.DocsAnswer(documents.search(query.query, query.limit))


def _read_doc(_: Surroundings, query: DocQuery) -> documents.DocText:
    return documents.read(query.page, query.section)


# -- what jobs print --------------------------------------------------------------------------------------


def _sweep(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def line(row: dict[str, Any]) -> dict[str, Any]:
        performance = row["metrics"]["performance"]
        figures = {name: performance[name] for name in ("total_return", "sharpe", "max_drawdown")}
        kept = {
            name: row[name] for name in ("params", "final_equity", "study", "run", "error") if name in row
        }
        return kept | figures | {"trades": row["trades"]}

    return {"variants": [line(row) for row in rows]}


def _check(found: dict[str, Any]) -> dict[str, Any]:
    details = {name: value for name, value in found.items() if name not in ("passed", "strategy")}
    return {"passed": found["passed"], "strategy": found["strategy"], "details": details}


def _report(found: Any) -> dict[str, Any]:
    return {"report": found}


def _same(found: Any) -> Any:
    return found


READ_TOOLS: Final = (
    Tool(
        "list_runs",
        "List recorded runs and walk-forwards, newest first, with their figures. Pages: pass `cursor` again.",
        Scope.READ,
        RunsQuery,
        RunPage,
        _list_runs,
    ),
    Tool(
        "run_figures",
        "Figures, verdict and notes of a recorded run: those of `tapewire report --json` and the REST API.",
        Scope.READ,
        RunQuery,
        answers.FiguresAnswer,
        run_figures,
    ),
    Tool(
        "list_tries",
        "The ledger of tries: which data were tried how often; with a run or study, each try on the same "
        "data with its deflated Sharpe ratio. The more tries, the better the best of them by luck alone.",
        Scope.READ,
        TriesQuery,
        answers.TriesAnswer,
        _list_tries,
    ),
    Tool(
        "list_strategies",
        "Strategies that may be run, with parameters and defaults: built-in ones and the project's files.",
        Scope.READ,
        Nothing,
        answers.StrategiesAnswer,
        _list_strategies,
    ),
    Tool(
        "strategy_template",
        "Source of a new strategy file to start from. A person has to save it in the project's folder.",
        Scope.READ,
        TemplateQuery,
        answers.TemplateAnswer,
        _template,
    ),
    Tool(
        "list_data",
        "Data files that research may read, by the names that `klines`, `news`, `sentiment`, `funding` take, "
        "with kind, symbol, range and gaps. While `reading`, facts are missing: call again.",
        Scope.READ,
        Nothing,
        DataFileList,
        _list_data,
    ),
    Tool(
        "search_docs",
        "Search Tapewire's documentation for words.",
        Scope.READ,
        DocsQuery,
        answers.DocsAnswer,
        _search_docs,
    ),
    Tool(
        "read_doc",
        "Read a page of Tapewire's documentation, or a section of it.",
        Scope.READ,
        DocQuery,
        documents.DocText,
        _read_doc,
    ),
)


def _job(
    name: str, description: str, takes: type[msgspec.Struct], gives: type[msgspec.Struct], shape: Any = _same
) -> Tool:
    return Tool(name, description, Scope.RESEARCH, takes, gives, shape=shape)


JOB_TOOLS: Final = (
    _job(
        "score",
        "Calibrated probabilities of bearish, neutral and bullish for headlines, by the configured model.",
        ScoreRequest,
        answers.ScoreAnswer,
    ),
    _job(
        "backtest",
        f"Replay history through a strategy on paper, with costs; the run is recorded. {_RESEARCH}",
        requests.BacktestRequest,
        answers.BacktestAnswer,
    ),
    _job(
        "walkforward",
        f"Judge a strategy fold by fold on time after what it was fitted on: the way to judge. {_RESEARCH}",
        requests.WalkForwardRequest,
        answers.WalkForwardAnswer,
    ),
    _job(
        "sweep",
        f"Replay history once for all combinations of parameters. Each variant is a try. {_RESEARCH}",
        requests.SweepRequest,
        answers.SweepAnswer,
        _sweep,
    ),
    _job(
        "tune",
        "Search parameters in sample, then judge the best once on held-out time. Held-out time that another "
        f"variant was judged on is spent, and refused. Each trial is a try. {_RESEARCH}",
        requests.TuneRequest,
        answers.TuneAnswer,
    ),
    *(
        _job(f"check_{name}", f"Honesty check: {takes.__doc__}", takes, answers.CheckAnswer, _check)
        for name, takes in (
            ("lookahead", requests.LookaheadRequest),
            ("startup", requests.StartupRequest),
            ("placebo", requests.PlaceboRequest),
            ("masked", requests.MaskedRequest),
            ("costs", requests.CostsRequest),
        )
    ),
    _job("explain_order", ExplainRequest.__doc__ or "", ExplainRequest, answers.ReportAnswer, _report),
    _job("twin", TwinRequest.__doc__ or "", TwinRequest, answers.ReportAnswer, _report),
    _job("diff_runs", DiffRequest.__doc__ or "", DiffRequest, answers.ReportAnswer, _report),
)

COMMAND_TOOL: Final = Tool(
    "command_agent",
    "Send a command to the running agent: it trades with it at once. Journalled with this client's name.",
    Scope.COMMAND,
    CommandQuery,
    answers.CommandAnswer,
)
"""Offered only if `mcp.commands` is true."""
