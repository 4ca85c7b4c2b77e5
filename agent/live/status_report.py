"""Takes the status of the running agent, as `tapewire status` shows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import inf
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.config import Config
from agent.core.events import OrderType
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Position
from agent.core.sleeves import SleevedEngine
from agent.core.trading_engine import TradingEngine
from agent.live.interfaces.producer import Health
from agent.live.interfaces.status import PositionStatus, Status
from agent.live.life import Life
from agent.live.log import status as log_status
from agent.live.model_drift import ModelDrift
from agent.live.observers import RecentActivity
from agent.live.run_record import RunRecord
from agent.live.sleeve_requests import sleeve_statuses, unassigned_of
from agent.live.strategy_switch import current_label, current_params
from agent.live.supervisor import Supervision
from agent.system.clock_discipline import ClockStatus
from agent.system.listening_sockets import Listener
from strategies import SOURCE_SHA256


def report_status(
    life: Life,
    config: Config,
    now: int,
    *,
    uptime: float,
    clock: ClockStatus,
    model: str,
    revising_model: str,
    drift: ModelDrift | None,
    listeners: Sequence[Listener],
    recent: RecentActivity,
    record: RunRecord,
) -> Status:
    """Take the status at `now` (UTC ms). `uptime` is in seconds; `model` and `revising_model` are the
    fingerprints of the current models.
    """
    pipeline, engine, run = life.pipeline, life.pipeline.engine, life.pipeline.run
    health = [producer.health for producer, _ in life.supervised]
    left_out = life.open_bars.left_out
    news = life.sources.news
    return Status(
        run=run.id,
        pid=os.getpid(),
        started_at=run.started_at,
        uptime_s=round(uptime, 3),
        now=now,
        clock=clock,
        strategy=current_label(engine, run),
        strategy_source=engine.version.get("sha256", run.versions.get(SOURCE_SHA256, "")),
        strategy_params=current_params(engine, run),
        strategy_since=engine.version_since or run.started_at,
        endpoint=config.bybit.endpoint,
        orders="paper" if life.sources.gateway is None else config.execution.testnet.venue,
        unreconciled=not engine.risk.reconciled,
        warming_up=life.warming_up,
        model=model,
        revising_model=revising_model,
        equity=engine.portfolio.equity(),
        cash=engine.portfolio.cash_float,
        positions=positions_of(engine, max(now, engine.market.now)),
        risk=engine.risk.state,
        risk_rule=engine.risk.rule,
        risk_detail=engine.risk.detail,
        risk_since=engine.risk.since,
        flattening=engine.flattener.open,
        sleeves=sleeve_statuses(engine),
        idle=engine.idle if isinstance(engine, SleevedEngine) else None,
        unassigned=unassigned_of(engine),
        drawdown=drawdown_of(engine),
        abstain_rate=engine.signals.abstain_rate,
        events=pipeline.journal.last_seq,
        decisions=pipeline.decisions,
        producers=producers_of(health, [supervision for _, supervision in life.supervised]),
        feeds=news.feeds if news is not None else [],
        listeners=[one.status for one in listeners],
        queue=life.queue.stats(),
        storage=pipeline.storage.status,
        log=log_status(),
        snapshots=replace(pipeline.snapshots.status),
        latencies={kind: histogram.summary() for kind, histogram in sorted(pipeline.latencies.items())},
        spans={name: histogram.summary() for name, histogram in sorted(pipeline.spans.items())},
        ignored=dict(engine.counts) | ({"open bars left out": left_out} if left_out else {}),
        headlines=dict(engine.signals.counts),
        model_drift=None if drift is None else drift.status(),
        twin=None if life.twin is None else life.twin.status(),
        recent=list(recent.lines),
        record=record.problem,
    )


def positions_of(engine: TradingEngine, now: int) -> list[PositionStatus]:
    """Report every symbol, including those without a position."""
    rows = []
    for symbol, state in engine.states.items():
        position = state.position
        known = position.mark == position.mark
        held, book = bool(position.qty), state.book
        rows.append(
            PositionStatus(
                symbol,
                position.qty,
                position.mark if known else None,
                position.size * position.mark if known else 0.0,
                state.last_start if state.last_start >= 0 else None,
                state.overdue(now),
                symbol in engine.risk.stale,
                len(book),
                entry=position.entry_price if held else None,
                open_profit=position.unrealised if held and known else None,
                stop=nearest_trigger(position, book, OrderType.STOP, OrderType.TRAILING_STOP),
                take_profit=nearest_trigger(position, book, OrderType.TAKE_PROFIT),
            )
        )
    return rows


def nearest_trigger(position: Position, book: Sequence[WorkingOrder], *kinds: OrderType) -> float | None:
    """Return the trigger of the position's protection of these kinds that the price reaches first."""
    if not position.qty:
        return None
    triggers = [
        working.trigger
        for working in book
        if working.closes_position and not working.cancelling and working.order.type in kinds
    ]
    falling = (position.qty > 0) != (OrderType.TAKE_PROFIT in kinds)  # a stop of a long is below the price
    return (max if falling else min)(triggers, default=None)


def drawdown_of(engine: TradingEngine) -> float:
    """Compute how far the equity is below its peak, as a fraction of the peak; 0 before the first bar."""
    peak = engine.risk.ceiling
    return max(0.0, 1 - engine.portfolio.equity() / peak) if 0 < peak < inf else 0.0


def producers_of(health: Sequence[Health], supervision: Sequence[Supervision]) -> list[dict[str, Any]]:
    """Merge health and supervision of each producer into one mapping."""
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
