"""A run as one row of a list."""

from __future__ import annotations

import msgspec

from agent.store.runs import Run


class RunRow(msgspec.Struct, frozen=True):
    """A run in the list. Results are fractions; None if the run has not recorded them."""

    id: str
    kind: str
    status: str
    strategy: str
    symbols: tuple[str, ...]
    started_at: int
    first_event_at: int | None
    last_event_at: int | None
    events: int
    decisions: int
    total_return: float | None
    max_drawdown: float | None
    sharpe: float | None
    trades: int | None
    stamps: tuple[str, ...]
    error: str


def traded_symbols(run: Run) -> tuple[str, ...]:
    """Return the symbols that the run trades."""
    return tuple(run.config.get("market", {}).get("symbols", ()))


def run_row(run: Run) -> RunRow:
    """Return the row of a run, without what only its recorded curve contains."""
    performance, trades = run.metrics.get("performance", {}), run.metrics.get("trades", {})
    initial = float(run.config.get("account", {}).get("initial_capital") or 0)
    total = performance.get("total_return")
    # At a venue the capital is what the account held at the start, not the configured amount
    configured_capital = run.config.get("execution", {}).get("mode") != "testnet"
    if total is None and run.final_equity is not None and initial and configured_capital:
        total = float(run.final_equity) / initial - 1
    return RunRow(
        id=run.id,
        kind=run.kind.value,
        status=run.status.value,
        strategy=run.strategy,
        symbols=traded_symbols(run),
        started_at=run.started_at,
        first_event_at=run.first_event_at,
        last_event_at=run.last_event_at,
        events=run.events,
        decisions=run.decisions,
        total_return=total,
        max_drawdown=performance.get("max_drawdown"),
        sharpe=performance.get("sharpe"),
        trades=trades.get("trades"),
        stamps=run.stamps,
        error=run.error,
    )
