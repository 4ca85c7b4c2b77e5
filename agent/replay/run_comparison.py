"""Comparison of two recorded runs."""

from __future__ import annotations

import numpy as np

from agent.analysis.comparison.compared_run import ComparedRun, load_compared_run
from agent.analysis.comparison.comparison_data import (
    DifferingDecision,
    InputComparison,
    RunComparison,
    RunSummary,
    metric_rows,
)
from agent.analysis.comparison.first_difference import DecisionDifference, first_difference
from agent.analysis.comparison.matched_trades import match_trades
from agent.analysis.comparison.paired_returns import RecordedCurve, paired_returns
from agent.analysis.comparison.setting_differences import differing
from agent.analysis.report.report_data import Curve
from agent.core.events import Event
from agent.replay.backtest import Progress
from agent.replay.input_comparison import compare_inputs
from agent.store.database import Database
from agent.store.queries import read_decisions
from agent.store.runs import Run

_POINTS = 1_000


def compare_runs(
    database: Database, a: Run, b: Run, *, seed: int = 0, progress: Progress | None = None
) -> RunComparison:
    """Compare two runs; `seed` is that of the bootstrap.

    The inputs are compared event by event, up to the first differing decision. Raises DataError if a run has
    recorded no equity.
    """
    one = load_compared_run(database, a)
    other = one if a.id == b.id else load_compared_run(database, b)
    difference, counts = first_difference(read_decisions(database, a.id), read_decisions(database, b.id))
    until = difference.event_seq if difference is not None else None
    found = compare_inputs(database, a, b, until, progress)
    settings = differing(one.settings, other.settings)
    versions = _versions(a, b)
    same_inputs = found.comparison.same is True
    tolerance = max(one.curve.interval, other.curve.interval)
    return RunComparison(
        a=_summary(one),
        b=_summary(other),
        identical=difference is None and same_inputs and not settings,
        same_decisions=difference is None,
        settings=settings,
        versions=versions,
        inputs=found.comparison,
        decisions=counts,
        first_decision=_differing_decision(difference, found.comparison, found.event),
        metrics=metric_rows(one.metrics, other.metrics),
        paired=paired_returns(one.curve, other.curve, seed=seed),
        trades=match_trades(one.trades, other.trades, tolerance),
        costs_a=one.costs,
        costs_b=other.costs,
        equity_a=one.points,
        equity_b=other.points,
        lead=_lead(one.curve, other.curve),
        notes=_notes(one, other),
    )


def _summary(side: ComparedRun) -> RunSummary:
    run, market = side.run, side.run.config.get("market") or {}
    return RunSummary(
        run.id,
        run.kind.value,
        run.status.value,
        run.strategy,
        tuple(market.get("symbols") or ()),
        run.version,
        side.curve.start,
        side.curve.end,
        str((side.run.config.get("account") or {}).get("currency") or ""),
        run.stamps,
        side.notes,
    )


def _versions(a: Run, b: Run) -> dict[str, tuple[str, str]]:
    one, other = {"tapewire": a.version} | a.versions, {"tapewire": b.version} | b.versions
    return {
        name: (one.get(name, ""), other.get(name, ""))
        for name in dict.fromkeys((*one, *other))
        if one.get(name) != other.get(name)
    }


def _differing_decision(
    difference: DecisionDifference | None, inputs: InputComparison, event: Event | None
) -> DifferingDecision | None:
    """Return the first differing decision; None if the inputs differ, which explains it."""
    if difference is None or inputs.same is False:
        return None
    decided = difference.a or difference.b
    if decided is None:
        return None
    return DifferingDecision(difference, decided.ts, event)


def _lead(a: RecordedCurve, b: RecordedCurve) -> Curve:
    """Return the return of a minus that of b since the start of their common time, for a chart."""
    start, end = max(a.start, b.start), min(a.end, b.end)
    times = np.union1d(a.ts, b.ts)
    times = times[(times > start) & (times <= end)]
    if not len(times):
        return Curve()
    times = np.concatenate(((start,), times))
    if len(times) > _POINTS:
        times = times[np.unique(np.linspace(0, len(times) - 1, _POINTS).round().astype(np.int64))]
    one, other = a.at(times), b.at(times)
    if one[0] <= 0 or other[0] <= 0:
        return Curve()
    return Curve(times.tolist(), (one / one[0] - other / other[0]).tolist())


def _notes(a: ComparedRun, b: ComparedRun) -> list[str]:
    """Return what a reader must know of both runs together."""
    notes = []
    if a.run.kind is not b.run.kind:
        notes.append(f"run a is a {a.run.kind.value} run, run b a {b.run.kind.value} run")
    capitals = a.metrics.initial_equity, b.metrics.initial_equity
    if capitals[0] != capitals[1]:
        notes.append("the runs begin with different capital: compare returns, not amounts")
    return notes
