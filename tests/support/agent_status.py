"""The status of an engine without a daemon."""

from __future__ import annotations

from typing import Any

from agent.core.trading_engine import TradingEngine
from agent.live.interfaces.status import OutputStatus, QueueStats, SnapshotStatus, Status, StorageStatus
from agent.live.status_report import drawdown_of, positions_of
from agent.system.clock_discipline import ClockStatus


def status_of(engine: TradingEngine, **changes: Any) -> Status:
    """Return the status of `engine` at its market's time; `changes` replaces fields."""
    now = engine.market.now
    fields: dict[str, Any] = {
        "run": "20250101-000000-aaaaaaaa",
        "pid": 1,
        "started_at": now,
        "uptime_s": 60.0,
        "now": now,
        "clock": ClockStatus(),
        "strategy": "sentiment",
        "endpoint": "http://127.0.0.1:1",
        "orders": "paper",
        "unreconciled": False,
        "warming_up": False,
        "model": "",
        "equity": engine.portfolio.equity(),
        "cash": engine.portfolio.cash_float,
        "positions": positions_of(engine, now),
        "risk": engine.risk.state,
        "risk_rule": engine.risk.rule,
        "risk_detail": engine.risk.detail,
        "risk_since": engine.risk.since,
        "drawdown": drawdown_of(engine),
        "abstain_rate": 0.0,
        "events": 1,
        "decisions": 1,
        "producers": [],
        "feeds": [],
        "queue": QueueStats(0, 0, 0, {}),
        "storage": StorageStatus(),
        "log": OutputStatus(),
        "snapshots": SnapshotStatus(),
        "latencies": {},
        "spans": {},
        "ignored": {},
        "headlines": {},
        "recent": [],
    }
    return Status(**fields | changes)
