"""Pages of walk-forwards, parameter searches and sweeps, from the same data as the terminal and JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup

from agent.analysis.report import formats
from agent.analysis.report.charts import drawdown
from agent.analysis.report.plot import LineChart, Pane, line
from agent.analysis.report.report_data import Curve
from agent.analysis.report.section_page import (
    Cell,
    PageSection,
    SectionPage,
    Table,
    number,
    render_sections,
    text,
)
from agent.analysis.report.svg import Axis, ChartBar, Series, bar_chart, line_chart
from agent.core.events import DAY_MS
from agent.research.evidence_rows import evidence_rows
from agent.research.parameter_charts import Tried, parameter_charts
from agent.research.walk_forward import FoldRecord, WalkForward

if TYPE_CHECKING:
    from agent.replay.batch import SweepResult
    from agent.research.tuning_results import TuningResult

_MINUS: Final = re.compile(r"-(?=\d)")
_LUCK: Final = "The best of many is mostly luck: judge it on time that it was not chosen on."


def render_walk_forward(found: WalkForward) -> str:
    """Return the page of a walk-forward."""
    first, last = found.folds[0].test[0], found.folds[-1].test[1]
    verdict = found.verdict
    curve = _growth(found)
    sections = [
        PageSection(
            "Out of sample",
            ["The daily returns of all folds in sequence, each judged on time that it was not fitted on."],
            charts=["equity"],
        ),
        PageSection("Evidence", tables=[_evidence(found)]),
        PageSection("Folds", charts=[_fold_chart(found.folds)], tables=[_fold_table(found.folds)]),
        *_stability(found.folds),
        PageSection("Provenance", tables=[_provenance(found)]),
    ]
    return render_sections(
        SectionPage(
            "walk-forward",
            f"{found.strategy} on {', '.join(found.symbols)}",
            [
                f"{formats.date(first)} – {formats.date(last)} UTC · {len(found.folds)} folds, "
                f"fit {found.fit} · {found.id}"
            ],
            verdict.headline,
            sections,
            verdict.tone,
            verdict.sentences,
            verdict.warnings,
            found.stamps,
            {"equity": curve},
        )
    )


def render_tuning(found: TuningResult) -> str:
    """Return the page of a parameter search."""
    start, end = found.in_sample
    held = found.held_out
    judged = held.folds[0].test
    tried = [Tried(one.params, one.sharpe, one.state) for one in found.tried]
    best = [(name, _value(value)) for name, value in found.params.items()]
    measured = [
        f"In sample, the best of {found.trials:,} has a Sharpe ratio of {formats.number(found.value)}."
    ]
    if found.deflated_sharpe is not None:
        measured.append(
            f"The probability that it exceeds what luck gives the best of so many is "
            f"{formats.percent(found.deflated_sharpe)}."
        )
    if found.overfitting is not None:
        measured.append(
            f"The probability that parameters chosen on one part are below the median on another is "
            f"{formats.percent(found.overfitting.probability)} ({found.overfitting.trials:,} trials)."
        )
    sections = [
        PageSection(
            "The best parameters",
            measured,
            tables=[Table(("Parameter", "Value"), [(text(name), text(shown)) for name, shown in best])],
        ),
        PageSection("Held out", charts=["equity"], tables=[_evidence(held)]),
        *_trials(tried, "Sharpe ratio in sample", lambda value: formats.number(value, 2)),
    ]
    return render_sections(
        SectionPage(
            "parameter search",
            f"{held.strategy} on {', '.join(held.symbols)}",
            [
                f"study {found.study}: {found.trials:,} trials, {found.pruned:,} of them pruned, "
                f"{found.invalid:,} invalid",
                f"searched on {formats.date(start)} – {formats.date(end)}, judged on "
                f"{formats.date(judged[0])} – {formats.date(judged[1])} UTC · run {held.folds[0].run}",
            ],
            held.verdict.headline,
            sections,
            held.verdict.tone,
            held.verdict.sentences,
            held.verdict.warnings,
            held.stamps,
            {"equity": _growth(held)},
        )
    )


def render_sweep(
    strategy: str,
    symbols: Sequence[str],
    results: Sequence[SweepResult],
    standing: str,
    stamps: Sequence[str] = (),
) -> str:
    """Return the page of a sweep of at least one variant. One that ended early can't be the best.

    `standing` states what the best is worth after all tries on the same data.
    """
    ranked = sorted(results, key=lambda one: -one.final_equity)
    whole = [one for one in ranked if not one.error]
    metrics = (whole or ranked)[0].metrics
    tried = [
        Tried(
            one.params,
            one.metrics.performance.total_return,
            "failed" if one.error else "complete",
            (
                number(formats.number(one.metrics.performance.sharpe), one.metrics.performance.sharpe),
                number(
                    formats.percent(one.metrics.performance.max_drawdown),
                    one.metrics.performance.max_drawdown,
                ),
                number(f"{one.metrics.trades.trades:,}", one.metrics.trades.trades),
                number(formats.money(float(one.final_equity)), float(one.final_equity)),
            ),
        )
        for one in ranked
    ]
    headline, sentences, warnings = "All variants ended early.", list[str](), [_LUCK]
    if whole:
        lost = sum(one.metrics.performance.total_return <= 0 for one in whole)
        no_profit = "none made a profit" if lost == len(whole) else f"{lost:,} made no profit"
        gain = formats.percent(metrics.performance.total_return, signed=True)
        headline = f"The best of {len(whole):,} variants: {gain}; {no_profit}."
        shown = ", ".join(f"{name} {_value(value)}" for name, value in whole[0].params.items())
        sentences += [f"Its parameters: {shown}.", f"Its {standing}."]
    if len(whole) < len(results):
        first = next(one.error for one in results if one.error)
        warnings.append(
            f"{len(results) - len(whole):,} of {len(results):,} variants ended early; the first: {first}"
        )
    return render_sections(
        SectionPage(
            "sweep",
            f"{strategy} on {', '.join(symbols)}",
            [
                f"{formats.date(metrics.start)} – {formats.date(metrics.end)} UTC · "
                f"{len(results):,} variants over the same history"
            ],
            headline,
            _trials(
                tried,
                "Total return",
                lambda value: formats.percent(value, signed=True),
                ("Sharpe", "Max drawdown", "Round trips", "Final equity"),
            ),
            sentences=sentences,
            warnings=warnings,
            stamps=stamps,
        )
    )


def _growth(found: WalkForward) -> LineChart:
    worth = np.concatenate(([1.0], np.cumprod(1 + np.array(found.returns))))
    ends = [found.days[0] - DAY_MS, *found.days]
    curve = Curve(ends, (worth - 1).tolist())
    below = drawdown(Curve(ends, worth.tolist()))
    return LineChart(
        "Return of all folds in sequence, and its drawdown",
        [
            Pane([line(curve, "Strategy", "--accent", 2)], "percent", "Return"),
            Pane([line(below, "Drawdown", "--accent", fill=True)], "percent", "Drawdown", 0.45),
        ],
    )


def _evidence(found: WalkForward) -> Table:
    rows = [
        (
            text(name.strip()),
            Cell(_MINUS.sub("−", own), number=True),
            Cell(_MINUS.sub("−", hold), number=True),
        )
        for name, own, hold in evidence_rows(found.evidence)
    ]
    return Table(("", "Strategy", "Buy and hold"), rows)


def _fold_chart(folds: Sequence[FoldRecord]) -> Markup:
    bars = []
    for fold in folds:
        shown = formats.percent(fold.total_return, 2, signed=True)
        hold = formats.percent(fold.buy_and_hold, 2, signed=True)
        label = f"Fold {fold.number}, {formats.date(fold.test[0])}: {shown}, buy and hold {hold}"
        bars.append(
            ChartBar(str(fold.number), fold.total_return, label, "gain" if fold.total_return >= 0 else "loss")
        )
    return bar_chart(
        "Return of each fold",
        "; ".join(bar.text for bar in bars),
        bars,
        lambda value: formats.percent(value, 1, signed=True),
    )


def _fold_table(folds: Sequence[FoldRecord]) -> Table:
    fitted = any(fold.overrides for fold in folds)
    columns = ["Fold", "Judged from (UTC)", "For", "Return", "Buy and hold", "Sharpe", "Max drawdown"]
    columns += ["Round trips", "In market", *(["Fitted"] if fitted else []), "Run"]
    rows = [
        [
            number(str(fold.number), fold.number),
            text(formats.date(fold.test[0])),
            number(formats.duration(fold.test[1] - fold.test[0]), fold.test[1] - fold.test[0]),
            number(formats.percent(fold.total_return, 2, signed=True), fold.total_return, toned=True),
            number(formats.percent(fold.buy_and_hold, 2, signed=True), fold.buy_and_hold),
            number(formats.number(fold.sharpe), fold.sharpe),
            number(formats.percent(fold.max_drawdown), fold.max_drawdown),
            number(f"{fold.trades:,}", fold.trades),
            number(formats.percent(fold.exposure), fold.exposure),
            *([text(_overrides(fold.overrides))] if fitted else []),
            text(fold.run),
        ]
        for fold in folds
    ]
    return Table(columns, rows, sortable=True)


def _stability(folds: Sequence[FoldRecord]) -> list[PageSection]:
    """Return how the fitted parameters changed from fold to fold; nothing if none were fitted."""
    fitted = [(fold.number, _params(fold.overrides)) for fold in folds]
    names = list(dict.fromkeys(name for _, params in fitted for name in params))
    rows, charts = [], []
    for name in names:
        values = [params[name] for _, params in fitted if name in params]
        counts = {str(value): values.count(value) for value in values}
        common = max(counts, key=lambda shown: counts[shown])
        changes = sum(a != b for a, b in pairwise(values))
        numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        is_number = len(numbers) == len(values)
        middle = _value(median(numbers)) if is_number else "–"
        spread = f"{_value(min(numbers))} to {_value(max(numbers))}" if is_number else ", ".join(counts)
        rows.append(
            (
                text(name),
                text(spread),
                text(middle),
                text(f"{_value(_parsed(values, common))} in {counts[common]} of {len(values)}"),
                number(f"{changes} of {len(values) - 1}", changes),
            )
        )
        if is_number and len(numbers) > 1:
            x = [float(one) for one, params in fitted if name in params]
            charts.append(
                line_chart(
                    f"{name} by fold",
                    "; ".join(f"fold {at:g}: {_value(value)}" for at, value in zip(x, numbers, strict=True)),
                    [Series(name, "accent", x, numbers, points=True)],
                    Axis("Fold", lambda value: f"{value:g}"),
                    Axis("", _value),
                )
            )
    if not rows:
        return []
    table = Table(("Parameter", "Range", "Median", "Most frequent", "Changes between folds"), rows)
    note = "Parameters that jump from fold to fold fit noise: a stable rule finds about the same ones again."
    return [PageSection("Stability of the parameters", charts=charts, tables=[table], note=note)]


def _trials(tried: Sequence[Tried], what: str, show: Any, more: Sequence[str] = ()) -> list[PageSection]:
    sections = []
    if charts := parameter_charts(tried, what, show):
        note = "A good region is broad: a single good cell among bad ones is luck."
        if any(one.state == "pruned" for one in tried):
            note += " Pruned trials have the ratio of the time that they ran."
        sections.append(PageSection("By parameter", charts=charts, note=note))
    names = list(dict.fromkeys(name for one in tried for name in one.params))
    stated = any(one.state != "complete" for one in tried)
    rows = []
    for one in sorted(tried, key=lambda one: -(one.value if one.value is not None else float("-inf"))):
        cells = [number(_value(one.params.get(name, "–")), _sorting(one.params.get(name))) for name in names]
        cells.append(number(show(one.value) if one.value is not None else "–", one.value, toned=True))
        rows.append([*cells, *one.more, *([text(one.state)] if stated else [])])
    columns = [*names, what, *more, *(["State"] if stated else [])]
    if rows:
        sections.append(PageSection("Trials", tables=[Table(columns, rows, sortable=True)]))
    return sections


def _provenance(found: WalkForward) -> Table:
    files = [(text(name), text(f"sha256 {sha}")) for name, sha in found.inputs.items()]
    return Table(
        ("", ""),
        [
            (text("Version"), text(f"tapewire {found.version}")),
            (text("Computed in"), text(f"{found.seconds:.1f} s")),
            *files,
        ],
    )


def _params(overrides: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = overrides.get("strategy", {}).get("params", {})
    return found


def _overrides(overrides: dict[str, Any]) -> str:
    shown = [f"{name} = {_value(value)}" for name, value in _params(overrides).items()]
    return ", ".join([*shown, *(f"{name} model" for name in overrides if name != "strategy")]) or "–"


def _parsed(values: Sequence[Any], shown: str) -> Any:
    return next(value for value in values if str(value) == shown)


def _sorting(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
