"""What a comparison reads of one recorded run."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from agent.analysis.comparison.paired_returns import RecordedCurve
from agent.analysis.comparison.setting_differences import settings_of
from agent.analysis.cost_breakdown import CostBreakdown, cost_breakdown
from agent.analysis.equity import EquityCurve, without_flows
from agent.analysis.report.report_data import Curve, recorded_config
from agent.analysis.report.report_loader import equity_samples, unrecorded_flow
from agent.analysis.run_metrics import Metrics, compute
from agent.analysis.trades import RoundTrip, TradeBook
from agent.core.durations import later
from agent.core.events import CashAdjustment, Fill, FundingPayment
from agent.store.database import Database
from agent.store.queries import read_decisions, read_rows
from agent.store.runs import Run


class ComparedRun(NamedTuple):
    """One side of a comparison. `notes` state what is missing or was left out."""

    run: Run
    settings: dict[str, Any]  # by flattened key
    metrics: Metrics
    curve: RecordedCurve
    points: Curve  # equity for a chart, at most about 4,000 points
    trades: list[RoundTrip]  # in order of exit, the open ones last
    costs: CostBreakdown
    notes: list[str]


def load_compared_run(database: Database, run: Run) -> ComparedRun:
    """Read one side of a comparison.

    Metrics are those that the run recorded. A run that was not finished has none: they are computed from its
    equity samples. Raises DataError if the run has recorded no equity.
    """
    notes: list[str] = []
    settings = settings_of(run, notes)
    config = recorded_config(run)
    ts, equity, exposed = equity_samples(database, run)
    flows = [(one.ts, float(one.amount)) for one in read_rows(database, run.id, CashAdjustment)]
    if config.execution.mode == "testnet":
        flows[:0] = unrecorded_flow(database, run, config)
    initial, equity = without_flows(ts, equity, flows, float(config.account.initial_capital))
    if moved := [amount for at, amount in flows if at > ts[0]]:
        currency = config.account.currency
        notes.append(
            f"deposits minus withdrawals of {sum(moved):+,.2f} {currency} are excluded from the returns"
        )
    book, trades = TradeBook(), list[RoundTrip]()
    moves = booked_moves(database, run.id)
    for move in moves:
        if isinstance(move, FundingPayment):
            book.add_funding(move)
        elif (closed := book.add(move)) is not None:
            trades.append(closed)
    trades += book.open_trades()
    spacing = int(np.median(np.diff(ts))) if len(ts) > 1 else config.market.interval
    curve = EquityCurve(initial, spacing)
    curve.extend(ts, equity, exposed)
    if run.metrics:
        metrics = msgspec.convert(run.metrics, Metrics)
        start = metrics.start
    else:
        metrics = compute(curve, book, category=config.market.category, interval=spacing)
        start = later(int(ts[0]), config.market.interval, -1)
        notes.append(f"the run is {run.status.value}: its metrics are computed from its equity samples")
    net = metrics.final_equity - metrics.initial_equity
    return ComparedRun(
        run,
        settings,
        metrics,
        RecordedCurve(start, initial, ts, equity, config.market.interval, config.market.category),
        Curve(*curve.points()),
        trades,
        cost_breakdown(moves, config.paper.half_spread_bps, net),
        notes,
    )


def booked_moves(database: Database, run_id: str) -> list[Fill | FundingPayment]:
    """Return a run's fills and funding payments in booking order."""
    return [
        item.decision
        for item in read_decisions(database, run_id)
        if isinstance(item.decision, (Fill, FundingPayment))
    ]
