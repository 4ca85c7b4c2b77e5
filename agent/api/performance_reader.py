"""The figures of a run with its round trips in groups: by symbol, side, sleeve, reason, day and hour."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET

from agent.analysis.equity import without_flows
from agent.analysis.report.report_data import recorded_config
from agent.analysis.trade_groups import TradeGroup, analyse_trades, group_trades, worst_drawdowns
from agent.analysis.trades import RoundTrip, TradeBook
from agent.api.run_messages import PerformanceReport, RunMetrics
from agent.core.events import CashAdjustment, Fill, FundingPayment
from agent.store.database import Database
from agent.store.queries import read_numbered, read_rows
from agent.store.runs import Run


def read_performance(
    database: Database, run: Run, metrics: RunMetrics, trades: Iterable[RoundTrip]
) -> PerformanceReport:
    """Group a run's round trips and find its worst drawdowns.

    Raises DataError if the run has recorded no equity yet.
    """
    from agent.analysis.report.report_loader import equity_samples, unrecorded_flow  # imports pandas

    config = recorded_config(run)
    ts, equity, _ = equity_samples(database, run)
    changes = read_rows(database, run.id, CashAdjustment)
    flows = [(change.ts, float(change.amount)) for change in changes]
    if config.execution.mode == "testnet":
        flows[:0] = unrecorded_flow(database, run, config)
    initial, equity = without_flows(ts, equity, flows, float(config.account.initial_capital))
    return PerformanceReport(
        run=run.id,
        status=run.status.value,
        recorded=metrics.recorded,
        metrics=metrics.metrics,
        trades=analyse_trades(trades),
        sleeves=_by_sleeve(database, run) if config.sleeves else (),
        drawdowns=tuple(worst_drawdowns(ts, equity, initial, start=metrics.metrics.start)),
    )


def _by_sleeve(database: Database, run: Run) -> tuple[TradeGroup, ...]:
    """Group the closed round trips of each sleeve's own ledger, which also has its trades with other ones."""
    books: dict[str, TradeBook] = {}
    closed: dict[str, list[RoundTrip]] = {}
    for _, _, _, move in read_numbered(database, run.id, (Fill, FundingPayment)):
        if not isinstance(move, Fill | FundingPayment) or move.sleeve is UNSET:
            continue
        book = books.setdefault(move.sleeve, TradeBook())
        if isinstance(move, FundingPayment):
            book.add_funding(move)
        elif (trade := book.add(move)) is not None:
            closed.setdefault(move.sleeve, []).append(trade)
    groups = [group_trades(name, trades) for name, trades in closed.items()]
    return tuple(sorted(groups, key=lambda group: (-group.pnl, group.label)))
