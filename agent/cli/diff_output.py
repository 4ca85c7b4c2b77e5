"""What `tapewire diff` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent.analysis.comparison import comparison_text as words
from agent.analysis.report import formats
from agent.cli.console import out, print_columns, print_text
from agent.cli.research_output import describe_overrides, percent, show_stamps
from agent.system.clock import iso
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.analysis.comparison.comparison_data import (
        FileDifference,
        MetricRow,
        RunComparison,
        RunSummary,
    )
    from agent.analysis.comparison.matched_trades import TradeComparison
    from agent.analysis.comparison.setting_differences import SettingDifference
    from agent.research.study_comparison import StudyComparison

_SHOWN: Final = 10
"""Rows of a list of round trips or settings; `--json` has all."""


def print_comparison(found: RunComparison) -> None:
    """Print the comparison of two runs."""
    show_stamps(tuple(dict.fromkeys((*found.a.stamps, *found.b.stamps))))
    for name, run in (("a", found.a), ("b", found.b)):
        print_text(f"{name}  {_run_line(run)}", wrap=True)
    print_text(words.headline(found), style="bold", wrap=True)
    for note in found.notes:
        print_text(f"! {note}", wrap=True)
    for name, run in (("a", found.a), ("b", found.b)):
        for note in run.notes:
            print_text(f"! {name}: {note}", wrap=True)
    print_text(f"inputs: {found.inputs.detail}", wrap=True)
    _print_files(found.inputs.files)
    if found.inputs.first is not None:
        for name, event in (("a", found.inputs.a), ("b", found.inputs.b)):
            text = words.describe(event) if event is not None else "no more events"
            print_text(f"  {name}: {text}", wrap=True)
    if not found.identical:
        _print_settings(found.settings)
    if found.versions:
        versions = [(name, one or "–", other or "–") for name, (one, other) in found.versions.items()]
        _print_table(("version", "a", "b"), versions)
    if found.identical:
        return
    lines = words.first_decision_lines(found)
    if lines:
        out.print()
        print_text("First differing decision", style="bold")
        for line in lines:
            print_text(f"  {line}", wrap=True)
    _print_metrics(found.metrics)
    out.print()
    for line in words.paired_lines(found.paired):
        print_text(line, wrap=True)
    rows = [
        (row.label, *(formats.money(value, signed=True) for value in row[1:]))
        for row in words.cost_rows(found.costs_a, found.costs_b)
    ]
    _print_table(("costs", "a", "b", "a − b"), rows, numbers=True)
    _print_trades(found.trades)


def print_study_comparison(found: StudyComparison) -> None:
    """Print the comparison of two walk-forwards."""
    show_stamps(found.stamps)
    if found.identical:
        print_text("identical: the same settings, files and daily returns", style="bold")
        return
    print_text(f"{found.a} and {found.b}: {words.differing_settings(found.settings)}", style="bold")
    _print_files(found.files)
    _print_settings(found.settings)
    _print_metrics(found.metrics)
    out.print()
    for line in words.paired_lines(found.paired):
        print_text(line, wrap=True)
    rows = []
    for pair in found.folds:
        folds = pair.a, pair.b
        returns = tuple(percent(fold.total_return if fold else None) for fold in folds)
        fitted = tuple(describe_overrides(fold.overrides) if fold else "–" for fold in folds)
        ran = tuple(fold.run if fold else "–" for fold in folds)
        rows.append((iso(pair.test[0])[:10], *returns, *fitted, *ran))
    _print_table(("judged from", "return a", "return b", "fitted a", "fitted b", "run a", "run b"), rows)


def _run_line(run: RunSummary) -> str:
    window = f"{iso(run.start)[:16]} to {iso(run.end)[:16]}"
    status = "" if run.status == "complete" else f", {run.status}"
    return f"{run.id}: {run.kind}{status}, {run.strategy} on {', '.join(run.symbols)}, {window}"


def _print_files(files: Sequence[FileDifference]) -> None:
    for file in files:
        hashes = " / ".join(sha[:12] or "no such file" for sha in (file.a, file.b))
        print_text(f"  {file.role} {file.symbol}: {hashes}".replace(" :", ":"))


def _print_settings(settings: Sequence[SettingDifference]) -> None:
    deciding = [one for one in settings if one.decides]
    others = [one.key for one in settings if not one.decides]
    if deciding:
        rows = [(one.key, words.shown_value(one.a), words.shown_value(one.b)) for one in deciding]
        _print_table(("setting", "a", "b"), rows)
    if others:
        text = f"{len(others):,} settings that change no decision differ: {', '.join(others[:_SHOWN])}"
        print_text(text + (" …" if len(others) > _SHOWN else ""), wrap=True)


def _print_metrics(metrics: Sequence[MetricRow]) -> None:
    rows = [
        (
            row.label,
            words.format_metric(row, row.a),
            words.format_metric(row, row.b),
            words.format_metric(row, row.difference, signed=True),
        )
        for row in metrics
    ]
    _print_table(("metric", "a", "b", "a − b"), rows, numbers=True)


def _print_trades(trades: TradeComparison) -> None:
    out.print()
    differing, only_a, only_b = len(trades.differing), len(trades.only_a), len(trades.only_b)
    print_text(
        f"round trips: {trades.equal:,} equal, {differing:,} in both that differ, "
        f"{only_a:,} only in a, {only_b:,} only in b",
        style="bold",
    )
    _print_lines("in both", [words.matched_line(pair) for pair in trades.differing])
    _print_lines("only in a", [words.trade_line(trade) for trade in trades.only_a])
    _print_lines("only in b", [words.trade_line(trade) for trade in trades.only_b])


def _print_lines(title: str, lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        print_text(f"  {title}: {line}", wrap=True)
    if len(lines) > _SHOWN:
        print_text(f"  {title}: the first {_SHOWN} of {len(lines):,}; --json has all")


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> None:
    out.print()
    first, *others = titles
    columns = figures(*others) if numbers else [Column(title, wraps=True) for title in others]
    print_columns((Column(first, wraps=True), *columns), rows)
