"""The status of a running agent as plain data: what `tapewire status`, MQTT, metrics and the dashboard show."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from agent.core.events import RiskState
from agent.live.interfaces.producer import Health
from agent.system.clock_discipline import ClockStatus
from agent.system.listening_sockets import ListenerStatus

HEADLINE_TO_SENTIMENT: Final = "headline to sentiment"
"""From being handed to the model to the sentiment, waits included."""
SENTIMENT_TO_ORDER: Final = "sentiment to order"
"""From the arrival in the queue to the order being recorded, for sentiments that led to one."""
STORE_WRITE: Final = "store write"
"""One commit: of a batch of events to the journal, or of what was decided on them."""


class KindStats(msgspec.Struct):
    """What became of the events of one kind; waits are in ms, of the last `RECENT` that were taken."""

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
    blocked: int  # how often a producer had to wait
    kinds: dict[str, KindStats]


class FeedHealth(Health):
    """`Health` of one feed: a message is an answer, a duplicate an entry that had been given out before."""

    url: str = ""
    status: int = 0  # HTTP, of the last answer
    unchanged: int = 0  # answers without a new document
    news: int = 0  # entries given out
    empty: int = 0  # entries without a word
    distrusted: int = 0  # dates missing, in no known zone, in the future or ancient
    over_limit: int = 0  # entries beyond `max_new_per_poll` or `max_new_per_hour`, which were not given out
    killed: int = 0  # documents whose parsing had to be ended
    next_poll_at: int = 0  # UTC ms
    moved_to: str = ""  # where the feed says it is for good


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
    problem: str = ""  # why none is taken, or why one was not used


class StorageStatus(msgspec.Struct):
    """How writing goes; durations in seconds, of the event loop's clock."""

    writable: bool = True
    error: str = ""  # of the present outage, or of the last
    failing_s: float = 0.0  # how long the present outage lasts
    tries: int = 0  # in the present outage
    outages: int = 0  # so far
    pending_s: float = 0.0  # how long the write in progress takes


class PositionStatus(msgspec.Struct, frozen=True):
    """One symbol: the signed quantity in base coin, its mark and value in account currency, and what the market data is like."""

    symbol: str
    qty: Decimal
    mark: float | None
    value: float
    last_bar: int | None  # start of the last closed bar, UTC ms
    overdue_ms: int
    stale: bool  # so overdue that a heartbeat has told the core
    open_orders: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The agent as a whole. Times are UTC ms, `latencies` ms from the arrival in the queue to being handled and recorded."""

    run: str
    pid: int
    started_at: int
    uptime_s: float
    now: int
    clock: ClockStatus  # what `now` rests on
    strategy: str
    endpoint: str
    orders: str  # where they go: paper, or a venue
    unreconciled: bool  # its account isn't known, or isn't what the ledger says
    warming_up: bool
    model: str
    equity: float
    cash: float
    positions: list[PositionStatus]
    risk: RiskState
    risk_rule: str
    risk_detail: str
    risk_since: int
    flattening: list[str] = []  # symbols whose positions are being closed, and are not flat yet
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
    spans: dict[str, dict[str, float]]  # ms: headline to sentiment, sentiment to order, store write
    ignored: dict[str, int]  # inputs, by reason
    headlines: dict[str, int]  # what became of sentiments
    recent: list[dict[str, Any]]
    record: str = ""  # what the store lacks of what was committed, or why that can't be noticed
