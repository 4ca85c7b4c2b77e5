"""The page of a comparison: one HTML file that loads nothing else, in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agent.analysis.comparison import comparison_text as words
from agent.analysis.comparison.comparison_data import InputComparison, RunComparison, RunSummary
from agent.analysis.report import page_parts
from agent.analysis.report.plot import Figure, LineChart, Pane, line
from agent.analysis.report.report_data import Curve
from agent.system.clock import iso

_SHOWN: Final = 100
"""Lines of each list of round trips."""


def render_comparison(found: RunComparison) -> str:
    """Return the page of two runs as HTML."""
    trades = found.trades
    return render_page(
        title=f"{found.a.id} and {found.b.id}",
        lines=[f"a: {_run_line(found.a)}", f"b: {_run_line(found.b)}"],
        headline=_sentence(words.headline(found)),
        paired=words.paired_lines(found.paired),
        warnings=[
            *found.notes,
            *(f"a: {note}" for note in found.a.notes),
            *(f"b: {note}" for note in found.b.notes),
        ],
        stamps=tuple(dict.fromkeys((*found.a.stamps, *found.b.stamps))),
        figure=overlay(found.equity_a, found.equity_b, found.lead),
        settings=found.settings,
        versions=found.versions,
        input_lines=_input_lines(found.inputs),
        first_decision=words.first_decision_lines(found),
        metrics=found.metrics,
        costs=words.cost_rows(found.costs_a, found.costs_b),
        currency=found.a.currency,
        trades=trades,
        trade_lists=[
            ("In both", [words.matched_line(pair) for pair in trades.differing]),
            ("Only in a", [words.trade_line(trade) for trade in trades.only_a]),
            ("Only in b", [words.trade_line(trade) for trade in trades.only_b]),
        ],
    )


def render_page(*, figure: Figure, **content: Any) -> str:
    """Return a page with `figure` as its chart; what `content` lacks of the template's parts is left out."""
    empty: dict[str, Any] = {
        "versions": {},
        "first_decision": [],
        "costs": [],
        "currency": "",
        "trades": None,
        "trade_lists": [],
        "folds": [],
    }
    return page_parts.render_page(
        "compare.html.j2",
        figures={"overlay": figure},
        **empty | content,
        shown=words.shown_value,
        metric=words.format_metric,
        shown_trades=_SHOWN,
    )


def overlay(a: Curve, b: Curve, lead: Curve) -> LineChart:
    """Draw both curves as return since their own start, and below them the lead of a over b."""
    own = [line(_growth(b), "b", "--muted"), line(_growth(a), "a", "--accent", 2)]
    panes = [Pane(own, "percent", "Return")]
    if lead.ts:
        panes.append(Pane([line(lead, "a − b", "--ink-soft", fill=True)], "percent", "a − b", 0.45))
    return LineChart("Returns of both runs over time, and the lead of a over b", panes)


def _growth(curve: Curve) -> Curve:
    first = curve.values[0] if curve.values else 0.0
    return Curve(curve.ts, [value / first - 1 for value in curve.values]) if first > 0 else Curve()


def _run_line(run: RunSummary) -> str:
    window = f"{iso(run.start)[:16]} to {iso(run.end)[:16]}"
    status = "" if run.status == "complete" else f", {run.status}"
    return f"{run.kind}{status}, {run.strategy} on {', '.join(run.symbols)}, {window}, run {run.id}"


def _input_lines(inputs: InputComparison) -> Sequence[str]:
    lines = [_sentence(f"Inputs: {inputs.detail}")]
    for file in inputs.files:
        hashes = " / ".join(sha[:12] or "no such file" for sha in (file.a, file.b))
        lines.append(f"{file.role.capitalize()} {file.symbol}: SHA-256 {hashes}".replace(" :", ":"))
    if inputs.first is not None:
        for name, event in (("a", inputs.a), ("b", inputs.b)):
            lines.append(f"{name}: {words.describe(event) if event is not None else 'no more events'}")
    return lines


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
