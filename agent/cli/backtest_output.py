"""What `tapewire backtest` prints: period, result beside buy-and-hold, and round trips in groups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from agent.analysis.trade_groups import Grouping, TradeAnalysis, TradeGroup, analyse_trades
from agent.cli.console import out, print_columns, print_text
from agent.cli.research_output import number, percent
from agent.core.durations import format_bar_length
from agent.core.events import DAY_MS
from agent.system.fitted_table import Cell, Column

if TYPE_CHECKING:
    from agent.analysis.equity import Drawdown
    from agent.analysis.run_metrics import Metrics, Performance
    from agent.replay.backtest import CompletedBacktest

_NO_VALUE = "–"


def print_figures(result: CompletedBacktest, title: str, currency: str) -> None:
    """Print the tables of a backtest: figures, by symbol, by exit reason, and the deepest drawdown."""
    metrics = result.metrics
    analysis = analyse_trades(result.trades)
    print_text(title, style="bold")
    print_text(period_line(metrics), wrap=True)
    columns = (
        Column(""),
        Column("strategy", right=True),
        Column("buy and hold", right=True),
    )
    print_columns(columns, _figures(metrics, currency))
    if analysis.trades:
        print_group(analysis, "symbol", currency)
        print_group(analysis, "exit reason", currency)
    if metrics.performance.drawdown.depth < 0:
        out.print()
        print_text(drawdown_line(metrics.performance.drawdown), wrap=True)


def period_line(metrics: Metrics) -> str:
    """Describe the window: start, end, days, bars and interval."""
    days = (metrics.end - metrics.start) / DAY_MS
    length = format_bar_length(metrics.interval)
    return (
        f"{_minute(metrics.start)} to {_minute(metrics.end)} UTC: {days:,.4g} days, "
        f"{metrics.periods:,} bars of {length}"
    )


def drawdown_line(drawdown: Drawdown) -> str:
    """Describe a drawdown with its dates."""
    back = "not recovered" if drawdown.recovery is None else f"recovered {_minute(drawdown.recovery)}"
    return (
        f"worst drawdown {drawdown.depth:.2%}: from {_minute(drawdown.peak)}, "
        f"lowest {_minute(drawdown.trough)}, {back}"
    )


def print_group(analysis: TradeAnalysis, name: Grouping, currency: str) -> None:
    """Print the closed round trips by symbol, or by another grouping."""
    columns = (
        Column(f"by {name}", wraps=True),
        Column("trips", right=True),
        Column("win rate", right=True),
        Column(f"profit, {currency}", right=True),
        Column("mean", right=True),
        Column("profit factor", right=True),
        Column("fees", right=True),
    )
    out.print()
    print_columns(columns, [_group_row(group) for group in analysis.groups[name]])


def _group_row(group: TradeGroup) -> Sequence[Cell]:
    return (
        group.label,
        f"{group.trades:,}",
        f"{group.win_rate:.1%}",
        _signed(float(group.pnl)),
        percent(group.mean_return),
        number(group.profit_factor),
        number(float(group.fees)),
    )


def _figures(metrics: Metrics, currency: str) -> list[Sequence[Cell]]:
    performance, hold, trades = metrics.performance, metrics.buy_and_hold, metrics.trades
    open_ones = f" ({metrics.open_trades:,} open)" if metrics.open_trades else ""
    duration = trades.average_holding_time
    return [
        ("total return", _coloured(performance.total_return), _of(hold, "total_return", percent)),
        ("CAGR", percent(performance.cagr), _of(hold, "cagr", percent)),
        ("Sharpe ratio", number(performance.sharpe), _of(hold, "sharpe", number)),
        ("max drawdown", percent(performance.max_drawdown), _of(hold, "max_drawdown", percent)),
        ("exposure", percent(metrics.exposure).lstrip("+"), ""),
        (f"round trips{open_ones}", f"{trades.trades:,}", ""),
        ("win rate", percent(trades.win_rate).lstrip("+"), ""),
        ("profit factor", number(trades.profit_factor), ""),
        (f"expectancy, {currency}", _signed(trades.expectancy), ""),
        (f"best round trip, {currency}", _signed(trades.best), ""),
        (f"worst round trip, {currency}", _signed(trades.worst), ""),
        ("average duration", _NO_VALUE if duration is None else duration_text(duration), ""),
        (f"fees, {currency}", number(metrics.fees), ""),
        (f"funding, {currency}", number(cost_of_funding(metrics.funding)), ""),
        (f"slippage, {currency}", number(metrics.slippage), ""),
        (f"final equity, {currency}", number(metrics.final_equity), ""),
    ]


def cost_of_funding(funding: float) -> float:
    """Return funding with the sign of a cost, as fees and slippage have: positive if paid."""
    return -funding or 0.0


def duration_text(ms: float) -> str:
    """Format a mean duration by its two largest units, such as `1h 22m`."""
    minutes = round(ms / 60_000)
    days, hours, rest = minutes // 1_440, minutes % 1_440 // 60, minutes % 60
    if days:
        return f"{days:,}d {hours}h"
    return f"{hours}h {rest}m" if hours else f"{rest}m"


def unexplained(result: CompletedBacktest) -> str:
    """Return why a run without a fill may not have traded; empty if it traded, or its notes explain it."""
    if result.metrics.fills or result.refused or result.rejected:
        return ""
    return "no order was sent: the strategy had no target that differs from a flat position"


def trades_json(result: CompletedBacktest) -> dict[str, Any]:
    """Return what `--json` has beyond the metrics: round trips in groups, and orders that weren't placed."""
    return {
        "trade_analysis": analyse_trades(result.trades),
        "orders_refused": result.refused,
        "orders_rejected": result.rejected,
    }


def _of(hold: Performance | None, name: str, show: Any) -> str:
    return _NO_VALUE if hold is None else str(show(getattr(hold, name)))


def _coloured(value: float) -> Text:
    return Text(percent(value), "green" if value > 0 else "red" if value < 0 else "")


def _signed(value: float | None) -> Text:
    if value is None:
        return Text(_NO_VALUE)
    return Text(f"{value:+,.2f}", "green" if value > 0 else "red" if value < 0 else "")


def _minute(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"
