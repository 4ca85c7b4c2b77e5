"""Results by sleeve on the terminal and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.cli.console import out, print_columns, print_text
from agent.cli.research_output import number, percent
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.analysis.sleeve_study import SleeveStudy


def print_sleeves(study: SleeveStudy, currency: str) -> None:
    """Print a table of the sleeves, the correlations of their daily returns, and what crossed internally."""
    results = study.sleeves
    rows: dict[str, list[str]] = {
        "strategy": [one.strategy for one in results],
        f"capital, {currency}": [number(one.capital) for one in results],
        f"profit, {currency}": [number(one.profit) for one in results],
        "total return": [percent(one.total_return) for one in results],
        "adds to the return": [percent(one.contribution) for one in results],
        "share of the risk": [percent(one.risk) for one in results],
        "Sharpe ratio": [number(one.sharpe) for one in results],
        "max drawdown": [percent(one.max_drawdown) for one in results],
        "round trips": [f"{one.trades:,}" for one in results],
        "win rate": [percent(one.win_rate).lstrip("+") for one in results],
        f"fees, {currency}": [number(float(one.fees)) for one in results],
        f"funding, {currency}": [number(-float(one.funding) or 0.0) for one in results],  # as a cost
        f"slippage, {currency}": [number(float(one.slippage)) for one in results],
    }
    out.print()
    columns = (Column("by sleeve"), *figures(*(one.name for one in results)))
    print_columns(columns, [(label, *values) for label, values in rows.items()])
    for line in lines_of(study, currency):
        print_text(line, wrap=True)


def lines_of(study: SleeveStudy, currency: str) -> list[str]:
    """Return sentences on correlation, idle cash and crosses."""
    names = [one.name for one in study.sleeves]
    pairs = [
        f"{one} and {other} {number(study.correlation[one][other])}"
        for row, one in enumerate(names)
        for other in names[row + 1 :]
    ]
    lines = [f"correlation of daily returns: {', '.join(pairs)}"] if pairs else []
    if study.idle > 0:
        lines.append(f"idle cash: {number(study.idle)} {currency}")
    internal = study.internal
    if internal.count:
        value, saved = number(float(internal.value)), number(float(internal.fees_saved))
        lines.append(
            f"internal crosses of the sleeves' orders: {internal.count:,}, worth {value} {currency}; "
            f"fees saved {saved} {currency}"
        )
    return lines


def sleeves_json(study: SleeveStudy) -> dict[str, Any]:
    """Return the study as plain data, without the curves."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(study)
    del found["curves"]
    return found
