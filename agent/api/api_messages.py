"""What the API sends and receives, as structs; the OpenAPI document and the Python client use them too.

Times are UTC milliseconds. Prices, quantities and amounts of orders, fills and trades are decimal strings;
figures are floats. New fields may be added, so clients must ignore fields that they don't know.
"""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Any, Literal, get_args

import msgspec

from agent.analysis.equity import Drawdown
from agent.analysis.run_metrics import Metrics
from agent.analysis.run_rows import RunRow
from agent.analysis.trade_groups import TradeAnalysis, TradeGroup
from agent.analysis.trades import RoundTrip
from agent.core.events import Fill, Order, OrderStatus, Signal
from agent.data.file_facts import FileFacts
from agent.jobs.job_records import JobState
from agent.jobs.job_summary import JobSummary
from agent.jobs.known_strategies import KnownStrategy
from agent.store.runs import InputFile, Run


class Scope(str, Enum):
    """What a token allows: to read, to run research jobs, to send commands. None includes another."""

    READ = "read"
    RESEARCH = "research"
    COMMAND = "command"


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457, media type application/problem+json)."""

    type: str  # urn:tapewire:problem:NAME
    title: str  # the same for all problems of a type
    status: int
    detail: str  # what was wrong
    instance: str  # path of the request
    where: str = ""  # the parameter, or the field of the body, that was wrong
    hint: str = ""  # what would be right


class AccessInfo(msgspec.Struct, frozen=True):
    """What the sender of a request may do at this server, and the server's version."""

    version: str
    sender: str  # as its commands are journalled
    scopes: tuple[Scope, ...]
    commands: bool  # an agent runs here and takes commands of this sender


class PageEnd(msgspec.Struct, frozen=True):
    """Base of pages of rows. `cursor` continues after the last row, also if `more` is False: rows that are
    added later follow there.
    """

    cursor: str
    more: bool


# -- recorded runs ---------------------------------------------------------------------------------------


class RunEntry(RunRow, frozen=True):
    """A run, or a walk-forward with the number of its folds, as `tapewire runs --json` prints it.

    Figures are fractions; null if the run has not recorded them.
    """

    tags: tuple[str, ...] = ()
    note: str = ""
    folds: int = 0


class RunPage(PageEnd, frozen=True):
    """Runs, newest first."""

    items: tuple[RunEntry, ...]


class RunDetail(msgspec.Struct, frozen=True):
    """All that the store knows of a run: configuration, input files, versions, results, labels."""

    run: Run
    tags: tuple[str, ...]
    note: str


class CausingHeadline(msgspec.Struct, frozen=True):
    """A headline that voted in a signal. Its title comes from outside: show it as text."""

    id: str
    title: str
    url: str  # http or https, or empty


class TradeEntry(msgspec.Struct, frozen=True):
    """A round trip. `seq` and `event` are those of the fill that opened it.

    `headlines` voted in the signal on which it was opened, the latest first, at most five; empty if it was
    opened for another reason.
    """

    seq: int  # number of the decision in the run
    event: int  # number of the event that caused it
    trade: RoundTrip
    return_on_notional: float  # profit over the notional entered, a fraction
    duration: int | None  # from the first entry to the last exit, ms; null if it is open
    headlines: tuple[CausingHeadline, ...]


class TradePage(PageEnd, frozen=True):
    """Round trips in the order in which they were opened. An open one changes until it is closed."""

    items: tuple[TradeEntry, ...]


class TradeTable(msgspec.Struct, frozen=True):
    """Rows of the table of round trips, in the order and with the filters that were asked for.

    The sums are over all round trips that match and are closed, not only over `items`.
    """

    total: int  # round trips of the run
    matching: int
    closed: int
    won: int
    pnl: Decimal  # net of fees and funding
    fees: Decimal
    funding: Decimal
    items: tuple[TradeEntry, ...]


class OrderEntry(msgspec.Struct, frozen=True):
    """An order and its last recorded state; `status` is null before the first report on it."""

    seq: int
    event: int
    order: Order
    status: OrderStatus | None
    filled: Decimal
    reason: str  # of the last change of its state


class OrderPage(PageEnd, frozen=True):
    """Orders in the order of the decisions."""

    items: tuple[OrderEntry, ...]


class FillEntry(msgspec.Struct, frozen=True):
    """An execution."""

    seq: int
    event: int
    fill: Fill


class FillPage(PageEnd, frozen=True):
    """Executions in the order of their booking."""

    items: tuple[FillEntry, ...]


class SignalEntry(msgspec.Struct, frozen=True):
    """A signal."""

    seq: int
    event: int
    signal: Signal


class SignalPage(PageEnd, frozen=True):
    """Signals in the order of the decisions."""

    items: tuple[SignalEntry, ...]


class AssetProbabilities(msgspec.Struct, frozen=True):
    """A model's probabilities for an asset that a headline names."""

    asset: str
    bearish: float | None
    neutral: float | None
    bullish: float | None


class ScoreEntry(msgspec.Struct, frozen=True):
    """A model's score of a headline. Probabilities don't count if it abstained."""

    available_at: int
    bearish: float | None
    neutral: float | None
    bullish: float | None
    abstained: bool
    model: str  # fingerprint
    latency_ms: float | None
    kind: str  # of news; empty if the model has none
    provisional: bool  # it may be revised
    assets: tuple[AssetProbabilities, ...]


class HeadlineEntry(msgspec.Struct, frozen=True):
    """A headline, all its scores in the order of their arrival, and the one that counts.

    `score` is null until there is one. A later score replaces a provisional one, unless it
    abstains. Texts come from outside: show them as text, never as markup.
    """

    seq: int
    event: int
    id: str
    ts: int  # of publication, according to the source
    available_at: int  # when the agent could first read it
    title: str
    publisher: str
    feed: str
    url: str  # http or https, or empty
    symbols: tuple[str, ...]  # traded symbols that it is about
    actionable: bool
    score: ScoreEntry | None
    scores: tuple[ScoreEntry, ...]


class HeadlinePage(PageEnd, frozen=True):
    """Headlines in the order of their arrival."""

    items: tuple[HeadlineEntry, ...]


class EquityPoint(msgspec.Struct, frozen=True):
    """The account at the end of a bar period, in its currency."""

    seq: int
    ts: int
    equity: float | None
    cash: float | None
    exposure: float | None  # gross notional


class EquityPage(PageEnd, frozen=True):
    """Samples of the account in the order of time."""

    items: tuple[EquityPoint, ...]


PriceBar = tuple[int, float, float, float, float, float]
"""Open time (UTC ms), open, high, low, close, volume."""


class PriceBars(msgspec.Struct, frozen=True):
    """The latest bars of a symbol, oldest first, folded from the run's own."""

    symbol: str
    interval: int  # ms
    items: tuple[PriceBar, ...]


class RunMetrics(msgspec.Struct, frozen=True):
    """The figures of a run, those of its report and of `tapewire report --json`.

    They were `recorded` at the run's end, or are computed from its equity samples and fills.
    """

    run: str
    status: str
    recorded: bool
    metrics: Metrics


# -- jobs ------------------------------------------------------------------------------------------------


class JobRow(msgspec.Struct, frozen=True):
    """A job: a command of the server's command line in a process of its own. Times are 0 before they come.

    `state` is waiting, running, done, failed, cancelled, or interrupted if its server ended. `share` is the
    part that is done, `line` what is being done. `runs` are ids of the runs that it recorded.
    """

    id: str
    kind: str
    by: str
    state: JobState
    share: float
    line: str
    created_at: int
    started_at: int
    ended_at: int
    error: str
    hint: str
    runs: tuple[str, ...]
    summary: JobSummary | None
    request: dict[str, Any]  # what started it


class JobList(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    items: tuple[JobRow, ...]


class JobDetail(JobRow, frozen=True):
    """A job with its command, the end of its log, and its result: the JSON that the command prints."""

    command: str
    tail: str
    result: Any


class DataFileRow(msgspec.Struct, frozen=True):
    """A file that jobs may read, by its name; `facts` is null until the file has been read."""

    name: str
    size: int  # bytes
    changed_at: int
    facts: FileFacts | None


class DataFileList(msgspec.Struct, frozen=True):
    """Data files by name. While `reading`, facts are missing: ask again."""

    items: tuple[DataFileRow, ...]
    left_out: int  # files beyond the most that are listed
    reading: bool


class StrategyList(msgspec.Struct, frozen=True):
    """The strategies that jobs may run; files are read, not run, so bounds come with `GET /strategy`."""

    items: tuple[KnownStrategy, ...]
    configured: str  # the strategy of a job that names none; empty if sleeves trade


# -- views of a run -----------------------------------------------------------------------------------


class PerformanceReport(msgspec.Struct, frozen=True):
    """Figures of a run (as `RunMetrics`), its closed round trips in groups, and its worst drawdowns.

    `sleeves` groups the round trips of each strategy of an account that several share, which include trades
    among them; it is empty for a run of one strategy. `drawdowns` are the five deepest, deepest first, of the
    recorded samples of the account, without deposits and withdrawals.
    """

    run: str
    status: str
    recorded: bool
    metrics: Metrics
    trades: TradeAnalysis
    sleeves: tuple[TradeGroup, ...]
    drawdowns: tuple[Drawdown, ...]


class Setting(msgspec.Struct, frozen=True):
    """A setting by its dotted key. Secrets are masked.

    `state` is `changed` if the value differs from the default, `given` if there is no default.
    """

    key: str
    value: Any
    default: Any
    state: Literal["changed", "given", "default"]


class ModelFacts(msgspec.Struct, frozen=True):
    """The card of a model that scored or predicted in the run; `setting` names its folder."""

    setting: str
    folder: str
    card: dict[str, Any]


class RunConfiguration(msgspec.Struct, frozen=True):
    """What a run ran with. Sections of services, such as the dashboard's, are not stored with a run."""

    run: str
    strategy: str
    settings: tuple[Setting, ...]  # those that aren't the default first
    versions: dict[str, str]
    inputs: tuple[InputFile, ...]
    models: tuple[ModelFacts, ...]
    notes: tuple[str, ...]


Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""Levels of activity and log lines, from the least to the most serious."""


class ActivityEntry(msgspec.Struct, frozen=True):
    """Something that happened in a run: a change of risk, a command, a note, a rejected order.

    `seq` is the number of the decision; of commands, which are events, it is 0.
    """

    ts: int
    event: int
    seq: int
    level: Level
    what: str
    symbol: str
    text: str


class ActivityPage(msgspec.Struct, frozen=True):
    """Activity, newest first. `total` counts all of the run that are kept, `matching` those that match.

    Of a run with more than 20,000 the oldest are left out; `omitted` counts them.
    """

    total: int
    omitted: int
    matching: int
    items: tuple[ActivityEntry, ...]


# -- the running agent -----------------------------------------------------------------------------------

Action = Literal["pause", "resume", "halt", "flatten", "kill", "use-strategy", "set-strategy"]
ACTIONS: tuple[str, ...] = get_args(Action)
"""Commands of the page and the API."""


class CommandRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command to the running agent; each field counts for the actions that its comment names."""

    action: Action
    run: str = ""  # refuse the command unless this run is running; empty: any
    flatten: bool = False  # kill, use-strategy, set-strategy: also close all positions
    confirm: str = ""  # resume after a kill: "resume from kill"
    reason: str = ""  # kill: for the journal
    sleeve: str = ""  # all but kill: only this sleeve
    symbol: str = ""  # flatten: only this symbol
    strategy: str = ""  # use-strategy
    params: dict[str, str] = {}  # use-strategy, set-strategy


class CommandResult(msgspec.Struct, frozen=True):
    """A command that was journalled and handled.

    `event` is the number of the last event in the journal, the command's or a later one; null if a kill was
    carried out at the venue while the store can't be written. `details` has what the action adds.
    """

    action: str
    event: int | None
    risk: str  # state of the account's risk after the command
    details: dict[str, Any]


ChangeKind = Literal["state", "strategy", "order", "order-update", "fill", "trade", "signal", "news", "score"]
CHANGE_KINDS: tuple[str, ...] = get_args(ChangeKind)


class AgentChange(msgspec.Struct, frozen=True):
    """A change at the running agent, one message of /api/v1/events.

    `id` identifies the order, the fill, the headline (news, score), or of a trade that was closed the order
    that closed it (`exit_order`). The store has the rows a moment later.
    """

    key: str  # the message's id for Last-Event-ID
    kind: ChangeKind
    run: str
    event: int  # number of the event that caused it
    ts: int
    id: str = ""
    symbol: str = ""
    detail: str = ""  # state: risk state and rule, or command; strategy: name; order-update: status …


class LogLine(msgspec.Struct, frozen=True):
    """A line of the agent's log. Secrets are masked; texts may come from outside: show them as text."""

    number: int  # counts up from 1 in this process
    ts: int
    level: Level
    event: str
    fields: dict[str, str]


class LogPage(msgspec.Struct, frozen=True):
    """The latest lines of the log that match, newest last. `after` continues behind `last`.

    The process keeps the latest 2,000 lines, from `first` on, of the levels that `log.level` lets through.
    """

    first: int
    last: int
    matching: int
    items: tuple[LogLine, ...]


class StreamReset(msgspec.Struct, frozen=True):
    """The first message after a Last-Event-ID that can't be continued: read the lists anew."""

    reason: str
