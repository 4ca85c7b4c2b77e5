"""The status of a running agent as plain data, for `tapewire status`, MQTT, metrics and the dashboard."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from agent.analysis.realised_moves import RealisedMoves
from agent.core.events import RiskState
from agent.live.interfaces.producer import Health
from agent.system.clock_discipline import ClockStatus
from agent.system.listening_sockets import ListenerStatus
from models.sentiment.serve.drift import Drift

HEADLINE_TO_SENTIMENT: Final = "headline to sentiment"
"""From the offer of a headline to the model to its sentiment, including waits."""
SENTIMENT_TO_REVISION: Final = "sentiment to revision"
"""From a headline's first sentiment to the sentiment that revises it."""
SENTIMENT_TO_ORDER: Final = "sentiment to order"
"""From a sentiment's arrival in the queue to the recorded order, if it led to one."""
STORE_WRITE: Final = "store write"
"""One commit: of a batch of events to the journal, or of the decisions on them."""


class KindStats(msgspec.Struct):
    """Counts of the events of one kind; waits in ms are those of the last `RECENT` events taken."""

    put: int = 0
    taken: int = 0
    coalesced: int = 0
    dropped: int = 0
    waiting: int = 0
    wait_p50: float = 0.0
    wait_p99: float = 0.0
    wait_max: float = 0.0


class QueueStats(msgspec.Struct):
    """A snapshot of the queue."""

    depth: int
    high_water: int
    blocked: int  # times that a producer had to wait
    kinds: dict[str, KindStats]


class FeedHealth(Health):
    """`Health` of one feed: messages are responses, duplicates are entries seen before."""

    url: str = ""
    status: int = 0  # HTTP status of the last response
    unchanged: int = 0  # responses without a new document
    news: int = 0  # headlines emitted
    empty: int = 0  # entries without text
    distrusted: int = 0  # dates missing, in no known zone, in the future or ancient
    over_limit: int = 0  # entries beyond `max_new_per_poll` or `max_new_per_hour`, not emitted
    killed: int = 0  # documents whose parser was killed
    next_poll_at: int = 0  # UTC ms
    moved_to: str = ""  # new address after a permanent redirect


class OutputStatus(msgspec.Struct):
    """State of standard error: counts are lines since the start."""

    dropped: int = 0  # the queue was full, or the write failed
    suppressed: int = 0  # repeated too often (`agent.live.log`)
    error: str = ""  # of the last write that failed; empty again once a write succeeds
    last_error: str = ""
    waiting: int = 0  # characters


class SnapshotStatus(msgspec.Struct):
    """Status of snapshots."""

    event: int = 0  # number of the last event that the last snapshot covers; 0: no snapshot
    at: int = 0  # UTC ms of the machine's clock
    size: int = 0  # bytes in the store
    took_ms: float = 0.0  # time for which the core waited
    resumed_from: int = 0  # this life loaded the snapshot after this event; 0: it folded the whole journal
    problem: str = ""  # why none is taken, or one was not used


class StorageStatus(msgspec.Struct):
    """Status of writes; durations in seconds, of the event loop's clock."""

    writable: bool = True
    error: str = ""  # of the current outage, or of the last
    failing_s: float = 0.0  # duration of the current outage
    tries: int = 0  # in the current outage
    outages: int = 0  # so far
    pending_s: float = 0.0  # duration of the write in progress


class ModelDriftStatus(msgspec.Struct, frozen=True):
    """The sentiment model on the last `window` headlines: its scores, and the price moves after its calls."""

    window: int
    drift: Drift
    moves: RealisedMoves


class TwinStatus(msgspec.Struct, frozen=True):
    """The latest orders at the venue against the same on paper; bps of their value, negative is worse.

    `low` and `high` are the interval of the mean, None with too few orders. The model allows `allowed_low` to
    `allowed_high`.
    """

    orders: int
    mean_bps: float | None
    low: float | None
    high: float | None
    allowed_low: float
    allowed_high: float
    causes_bps: dict[str, float]
    outside: bool  # the alarm is raised
    problem: str  # why the twin has ended; empty while it folds
    # of the whole run, in the account's currency: equity at the venue minus that on paper; None while behind
    difference: Decimal | None = None
    causes: dict[str, Decimal] = {}
    behind: int = 0  # events of the journal that it has not folded yet after a restart


class PositionStatus(msgspec.Struct, frozen=True):
    """One symbol: signed quantity in the base coin, mark, value in the account's currency, and age of the
    data.

    `entry` is the average price, `open_profit` before fees and funding, `stop` the nearest trigger of a stop
    or trailing stop, `take_profit` that of a take-profit; None if flat, or without such an order.
    """

    symbol: str
    qty: Decimal
    mark: float | None
    value: float
    last_bar: int | None  # start of the last closed bar, UTC ms
    overdue_ms: int
    stale: bool  # the core treats the data as stale
    open_orders: int
    entry: Decimal | None = None
    open_profit: Decimal | None = None
    stop: float | None = None
    take_profit: float | None = None


class SleeveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of several strategies in the account: its virtual portfolio and risk state. Times are UTC ms."""

    name: str
    strategy: str
    symbols: tuple[str, ...]
    capital: Decimal  # at its beginning
    equity: float
    cash: float
    exposure: float
    positions: dict[str, Decimal]  # signed quantities
    open_orders: int
    risk: RiskState
    risk_rule: str
    risk_detail: str
    risk_since: int
    leaving: bool  # it has been removed, and its positions are being closed
    flattening: list[str] = []  # symbols whose positions are being closed


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Status of the whole agent. Times are UTC ms.

    `latencies` are ms from the arrival in the queue to handled and recorded.
    """

    run: str
    pid: int
    started_at: int
    uptime_s: float
    now: int
    clock: ClockStatus  # sources of `now`
    strategy: str  # that decides now
    strategy_source: str = ""  # SHA-256 of its file; empty if it is built in
    strategy_params: dict[str, Any] = {}
    strategy_since: int = 0
    endpoint: str
    orders: str  # paper, or the venue that receives orders
    unreconciled: bool  # the venue's account is unknown or differs from the ledger
    warming_up: bool
    model: str
    revising_model: str = ""  # revises the scores of `model`; empty if none is loaded
    equity: float
    cash: float
    positions: list[PositionStatus]
    risk: RiskState
    risk_rule: str
    risk_detail: str
    risk_since: int
    flattening: list[str] = []  # symbols whose positions are being closed
    sleeves: list[SleeveStatus] = []  # empty if one strategy has the whole account
    idle: Decimal | None = None  # cash that no sleeve has; None without sleeves
    unassigned: dict[str, Decimal] = {}  # positions at a venue that no sleeve has, by symbol
    drawdown: float  # fraction of the equity's peak
    abstain_rate: float
    events: int
    decisions: int
    producers: list[dict[str, Any]]  # health and supervision of each
    feeds: list[FeedHealth]
    queue: QueueStats
    listeners: list[ListenerStatus] = []  # control, dashboard, metrics
    storage: StorageStatus
    log: OutputStatus
    snapshots: SnapshotStatus
    latencies: dict[str, dict[str, float]]
    # ms: headline to sentiment, sentiment to revision, sentiment to order, store write
    spans: dict[str, dict[str, float]]
    ignored: dict[str, int]  # inputs, by reason
    headlines: dict[str, int]  # sentiments by outcome
    model_drift: ModelDriftStatus | None = None  # None if no model scores headlines
    twin: TwinStatus | None = None  # None if none is folded beside the run
    recent: list[dict[str, Any]]
    record: str = ""  # commits that the store lost, or why a loss can't be detected
