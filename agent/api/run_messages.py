"""What the API sends of recorded runs, as structs (see `api_messages`): their rows, and views of a run."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from agent.analysis.equity import Drawdown
from agent.analysis.run_metrics import Metrics
from agent.analysis.run_rows import RunRow
from agent.analysis.trade_groups import TradeAnalysis, TradeGroup
from agent.analysis.trades import RoundTrip
from agent.api.api_messages import Level, PageEnd
from agent.core.events import Fill, Order, OrderStatus, Signal
from agent.store.runs import InputFile, Run


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
    """Rows of the table of round trips, in the order and with the filters of the query.

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
