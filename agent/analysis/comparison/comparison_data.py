"""The data of a comparison: what the terminal, the page and `--json` show."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from agent.analysis.comparison.first_difference import DecisionCounts, DecisionDifference
from agent.analysis.comparison.matched_trades import TradeComparison
from agent.analysis.comparison.paired_returns import PairedReturns
from agent.analysis.comparison.setting_differences import SettingDifference
from agent.analysis.cost_breakdown import CostBreakdown
from agent.analysis.report.report_data import Curve
from agent.analysis.run_metrics import Metrics
from agent.core.events import Event

Unit = Literal["percent", "number", "money", "duration", "count"]


class RunSummary(msgspec.Struct, frozen=True):
    """One of the two runs."""

    id: str
    kind: str
    status: str
    strategy: str
    symbols: tuple[str, ...]
    version: str
    start: int  # UTC ms
    end: int
    currency: str
    stamps: tuple[str, ...] = ()
    notes: list[str] = []


class FileDifference(msgspec.Struct, frozen=True):
    """An input file that differs; a hash is empty if the run has no file of this role and symbol."""

    role: str
    symbol: str
    a: str  # SHA-256
    b: str


class InputComparison(msgspec.Struct, frozen=True):
    """Whether both runs handled the same events.

    - `same`: True if all compared events are equal, up to the first differing decision; None if that
      is not known, for the reason `detail`.
    - `checked`: number of events that were compared one by one and are equal.
    - `first`: number of the first event that differs, with both events; None if all are equal.
    """

    same: bool | None
    detail: str
    files: list[FileDifference] = []
    checked: int = 0
    first: int | None = None
    a: Event | None = None
    b: Event | None = None


class MetricRow(msgspec.Struct, frozen=True):
    """A metric of both runs; `difference` is a minus b, None if one of them is undefined."""

    name: str
    label: str
    unit: Unit
    a: float | None
    b: float | None
    difference: float | None


class DifferingDecision(msgspec.Struct, frozen=True):
    """The first differing decision, the event that led to it, and its time (UTC ms)."""

    difference: DecisionDifference
    ts: int
    event: Event | None  # None if the inputs can't be read any more


class RunComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of runs a and b.

    - `identical`: the same settings, inputs and decisions.
    - `same_decisions`: all decisions are equal, apart from order ids.
    - `first_decision`: None if all are equal, or if the inputs differ before it.
    - `versions`: name -> versions of both; only those that differ.
    """

    a: RunSummary
    b: RunSummary
    identical: bool
    same_decisions: bool
    settings: list[SettingDifference]
    versions: dict[str, tuple[str, str]]
    inputs: InputComparison
    decisions: DecisionCounts
    first_decision: DifferingDecision | None
    metrics: list[MetricRow]
    paired: PairedReturns
    trades: TradeComparison
    costs_a: CostBreakdown
    costs_b: CostBreakdown
    equity_a: Curve
    equity_b: Curve
    lead: Curve = Curve()  # return of a minus that of b since the start of their common time
    notes: list[str] = []


_METRICS: tuple[tuple[str, str, Unit], ...] = (
    ("performance.total_return", "Total return", "percent"),
    ("performance.cagr", "CAGR", "percent"),
    ("performance.sharpe", "Sharpe", "number"),
    ("performance.sortino", "Sortino", "number"),
    ("performance.calmar", "Calmar", "number"),
    ("performance.volatility", "Volatility", "percent"),
    ("performance.max_drawdown", "Max drawdown", "percent"),
    ("performance.longest_drawdown", "Longest drawdown", "duration"),
    ("exposure", "Time in the market", "percent"),
    ("turnover", "Turnover", "number"),
    ("trades.trades", "Round trips", "count"),
    ("open_trades", "Open at the end", "count"),
    ("fills", "Fills", "count"),
    ("trades.win_rate", "Win rate", "percent"),
    ("trades.profit_factor", "Profit factor", "number"),
    ("trades.expectancy", "Expectancy", "money"),
    ("trades.average_holding_time", "Mean holding time", "duration"),
    ("buy_and_hold.total_return", "Buy and hold", "percent"),
    ("initial_equity", "Initial equity", "money"),
    ("final_equity", "Final equity", "money"),
)


def metric_rows(a: Metrics, b: Metrics) -> list[MetricRow]:
    """Return the metrics side by side; those that neither run has are left out."""
    rows = []
    for path, label, unit in _METRICS:
        one, other = _value(a, path), _value(b, path)
        if one is not None or other is not None:
            difference = one - other if one is not None and other is not None else None
            rows.append(MetricRow(path, label, unit, one, other, difference))
    return rows


def _value(metrics: Metrics, path: str) -> float | None:
    value: Any = metrics
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return None if value is None else float(value)
