"""What `tapewire status` says: a snapshot of the running agent as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import inf
from typing import Any

import msgspec

from agent.core.engine import Engine
from agent.core.events import RiskState
from agent.live.event_queue import QueueStats
from agent.live.news.news_producer import FeedHealth
from agent.live.output import OutputStatus
from agent.live.producer import Health
from agent.live.snapshotter import SnapshotStatus
from agent.live.store_retry import StorageStatus
from agent.live.supervisor import Supervision
from agent.system.clock_discipline import ClockStatus
from agent.system.listening_sockets import ListenerStatus


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


def positions_of(engine: Engine, now: int) -> list[PositionStatus]:
    """All symbols, flat ones too."""
    rows = []
    for symbol, tape in engine.tapes.items():
        position = tape.position
        known = position.mark == position.mark
        rows.append(
            PositionStatus(
                symbol,
                position.qty,
                position.mark if known else None,
                position.size * position.mark if known else 0.0,
                tape.last_start if tape.last_start >= 0 else None,
                tape.overdue(now),
                symbol in engine.risk.stale,
                len(tape.book),
            )
        )
    return rows


def drawdown_of(engine: Engine) -> float:
    """How far the equity is below its peak, as a fraction of it; 0 before the first bar."""
    peak = engine.risk.ceiling
    return max(0.0, 1 - engine.portfolio.equity() / peak) if 0 < peak < inf else 0.0


def producers_of(health: Sequence[Health], supervision: Sequence[Supervision]) -> list[dict[str, Any]]:
    """Health and supervision of each producer in one mapping."""
    return [
        {
            **msgspec.to_builtins(one),
            "vital": other.vital,
            "starts": other.starts,
            "failures": other.failures,
            "last_failure": other.last_failure,
        }
        for one, other in zip(health, supervision, strict=True)
    ]
