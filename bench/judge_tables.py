"""Markdown of `bench/judge.py`: tables, and the verdict in sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.event_study import CHEAPEST_ROUND_TRIP, COLUMNS, CONFIDENT, JUDGED

ALL: Final = "all"


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the tables of all parts that are done."""
    lines = [
        "# Judgement of the reader of headlines",
        "",
        f"Model {summary['model']}; {', '.join(summary['klines'])} and {summary['news']}. Made by",
        "`bench/judge.py`, whose docstring and that of `bench/event_study.py` state the method.",
        "",
    ]
    if summary["missing"]:
        lines += [f"Not computed: {', '.join(summary['missing'])}.", ""]
    if summary["study"]:
        lines += _study(summary["study"])
    if summary["walk_forward"]:
        lines += _walk_forward(summary)
    return "\n".join(lines).rstrip() + "\n"


# -- the event study -----------------------------------------------------------------------------------


def _study(study: Mapping[str, Any]) -> list[str]:
    start, cut, end = study["window"]
    whole = study["all"]
    counts = ", ".join(f"{count:,} {name}" for name, count in whole["counts"].items())
    lines = [
        f"## Price moves around headlines, {start} to {end}",
        "",
        f"The model was trained until {study['model']['trained_until']}. {study['headlines']:,} headlines of",
        f"publishers are {study['stories']:,} stories; {counts};",
        f"{whole['observations']:,} observations of a headline and an asset. Moves in bps, less the asset's",
        "mean move, before costs, with 95 % intervals from the bootstrap over days. `before` is the hour up",
        "to the publication; the others begin at the first minute after publication + 1 minute.",
        "",
        *(f"Note: {note}." for note in study["notes"]),
        "",
        "### Verdict",
        "",
        *(f"- {sentence}" for sentence in sentences(study)),
        "",
    ]
    for threshold, title in ((CONFIDENT, f"confidence ≥ {CONFIDENT}"), (0.0, "all answers")):
        moves = whole["moves"][str(threshold)]
        rows = {
            (asset, label): cell
            for asset, cells in moves["by_asset"].items()
            for label, cell in cells.items()
        }
        lines += [f"### By asset and label, {title}", "", *_cells(("asset", "answer"), rows), ""]
        if moves["by_kind"]:
            rows = {
                (kind, label): cells[label]
                for kind, cells in moves["by_kind"].items()
                for label in ("in direction", "bullish minus bearish")
                if label in cells
            }
            lines += [f"### By kind of news, {title}", "", *_cells(("kind", "answer"), rows), ""]
    if study["kinds"]:
        lines += [
            f"### Which kinds vote by default (first half until {cut}, second half from then on)",
            "",
            "60 minutes, in the direction of the answer, by the rule in the docstring of",
            "`bench/event_study.py`.",
            "",
            "| kind | first half | headlines | second half | headlines | fails | holds | votes |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for kind, found in study["kinds"].items():
            halves = [found["first"], found["second"]]
            cells = [text for half in halves for text in (_one(half), f"{half['headlines']:,}")]
            flags = [yes(found[name]) for name in ("fails_first", "holds", "votes")]
            lines.append(f"| {' | '.join((kind, *cells, *flags))} |")
        lines.append("")
    return lines


def sentences(study: Mapping[str, Any]) -> list[str]:
    """Return the verdict of the event study in sentences."""
    moves = study["all"]["moves"][str(CONFIDENT)]
    cells = moves["by_asset"][ALL]
    found = []
    cell = cells["in direction"]
    if not cell.get("high"):
        return ["There are too few headlines for a verdict."]
    found.append(
        f"In the hour before publication the price moved {_interval(cell, 0)} bps in the direction of the "
        "answer."
    )
    spread = cells.get("bullish minus bearish", {})
    for name, figures in (("In the direction of the answer", cell), ("Bullish minus bearish", spread)):
        if figures.get("high"):
            texts = [f"{COLUMNS[k]} {_interval(figures, k)}" for k in range(1, len(COLUMNS))]
            found.append(f"{name}, after it: {'; '.join(texts)} bps.")
    ahead = [COLUMNS[k] for k in range(1, len(COLUMNS)) if cell["low"][k] > 0]
    against = [COLUMNS[k] for k in range(1, len(COLUMNS)) if cell["high"][k] < 0]
    if ahead:
        paying = [name for name in ahead if cell["mean"][COLUMNS.index(name)] > CHEAPEST_ROUND_TRIP]
        found.append(
            f"A move in the direction of the answer is shown at {', '.join(ahead)}; "
            + (
                f"at {', '.join(paying)} its mean is above the cheapest round trip of "
                f"{CHEAPEST_ROUND_TRIP:g} bps."
                if paying
                else f"its mean is below the cheapest round trip of {CHEAPEST_ROUND_TRIP:g} bps, so it can't "
                "be traded."
            )
        )
    else:
        found.append("No move in the direction of the answer is shown at any horizon after the headline.")
    if against:
        found.append(f"A move against the answer is shown at {', '.join(against)}.")
    found += _kind_sentences(study, moves)
    return found


def _kind_sentences(study: Mapping[str, Any], moves: Mapping[str, Any]) -> list[str]:
    if not study["kinds"]:
        return ["The model doesn't tell kinds of news apart, so no default of `[signals] kinds` follows."]
    cells = {kind: found["in direction"] for kind, found in moves["by_kind"].items()}
    shown = [
        f"{kind} ({_interval(cell, JUDGED)} bps)"
        for kind, cell in cells.items()
        if cell.get("high") and (cell["low"][JUDGED] > 0 or cell["high"][JUDGED] < 0)
    ]
    tested = sum("high" in cell for cell in cells.values())
    found = [
        (
            f"Kinds whose 60-minute interval excludes 0: {', '.join(shown)}"
            if shown
            else "For no kind of news the 60-minute interval excludes 0"
        )
        + f"; of {tested} kinds, {tested * 0.05:.1f} are expected to by chance."
    ]
    judged = study["kinds"]
    failed = [kind for kind, one in judged.items() if one["fails_first"]]
    barred = [kind for kind, one in judged.items() if not one["votes"]]
    few = [kind for kind, one in judged.items() if not one["enough_days"]]
    voting = ", ".join(f'"{kind}"' for kind, one in judged.items() if one["votes"])
    found.append(
        f"Kinds that fail the rule in the first half: {', '.join(failed) or 'none'}. The second half "
        f"confirms: {', '.join(barred) or 'none'}."
    )
    if few:
        found.append(f"Too few days for a judgement: {', '.join(few)}.")
    found.append(f"The default that follows is `kinds = [{voting}]`.")
    return found


def _cells(heads: Sequence[str], rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    lines = [
        f"| {' | '.join((*heads, 'headlines', 'days', *COLUMNS))} |",
        "|---" * (len(heads) + 2 + len(COLUMNS)) + "|",
    ]
    for names, cell in rows.items():
        figures = [_interval(cell, k) if cell["mean"] else "–" for k in range(len(COLUMNS))]
        counts = (f"{cell['headlines']:,}", str(cell["days"]))
        lines.append(f"| {' | '.join((*names, *counts, *figures))} |")
    return lines


def _interval(cell: Mapping[str, Any], k: int) -> str:
    """Format column `k` of a cell, with its interval if it has one."""
    values = {name: cell[name][k] for name in ("mean", "low", "high") if cell.get(name)}
    return _one(values)


def _one(values: Mapping[str, Any]) -> str:
    if "mean" not in values:
        return "–"
    text = signed(values["mean"])
    return f"{text} [{signed(values['low'])}, {signed(values['high'])}]" if "low" in values else text


# -- the walk-forward ----------------------------------------------------------------------------------


def _walk_forward(summary: Mapping[str, Any]) -> list[str]:
    begin, end = summary["judged"]
    parts = summary["walk_forward"]
    made = sum(part["evidence"]["total_return"] > 0 for part in parts.values())
    shown = [part["title"] for part in parts.values() if part["verdict"]["tone"] == "good"]
    lines = [
        f"## Trading walk-forward, {begin} to {end}",
        "",
        f"Folds of 30 days; fusion models learn from {summary['trained_from']} on, anew before each fold;",
        "fitted holding times (5m, 15m, 1h, 4h, 1d; both sides) are those of the best Sharpe ratio in the",
        "90 days before. Maker entries are post-only limit orders 2 bps away, exits are market orders. Fees,",
        "spread, slippage, latency and funding as in `config.toml`. Intervals are 95 % of the stationary",
        "bootstrap. Placebo: headlines shuffled in time.",
        "",
        f"**{made} of {len(parts)} made money; evidence of an edge: {', '.join(shown) or 'none'}.**",
        "",
        "| | total return | Sharpe ratio | deflated, of tries | against buy-and-hold | round trips "
        "| cost of one | placebo: median, p | random times, p | minutes of CPU (wall) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for part in parts.values():
        evidence = part["evidence"]
        versus, placebo, random = (evidence[name] for name in ("versus_hold", "placebo", "random_entries"))
        deflated, cost = evidence["deflated_sharpe"], evidence["cost"]
        cells = (
            part["title"],
            spread(evidence["total_return_interval"], percent),
            spread(evidence["sharpe_interval"], number),
            "–" if deflated is None else f"{deflated * 100:.0f} % of {evidence['trials']}",
            spread(versus["total_return"], percent) if versus else "–",
            f"{evidence['trades']:,}",
            "–" if cost is None else f"{cost * 1e4:.1f} bps",
            f"{percent(placebo['median'])}, {placebo['p_value']:.2f} of {placebo['draws']}"
            if placebo
            else "–",
            f"{random['p_value']:.2f}" if random else "–",
            f"{part['cpu_seconds'] / 60:.1f} ({part['wall_seconds'] / 60:.1f})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    hold = next(iter(parts.values()))["evidence"]["buy_and_hold"]
    lines += ["", f"Buy and hold, equal weights: {percent(hold)}.", "", "### Verdicts", ""]
    for part in parts.values():
        verdict = part["verdict"]
        texts = [verdict["headline"], *verdict["warnings"], *verdict["sentences"]]
        lines.append(f"- **{part['title']}**: {' '.join(texts)}")
    titles = [part["title"] for part in parts.values()]
    lines += ["", "### Folds", "", f"| judged from | hold | {' | '.join(titles)} |"]
    lines.append("|---" * (len(parts) + 2) + "|")
    for row, fold in enumerate(next(iter(parts.values()))["folds"]):
        day = time.strftime("%Y-%m-%d", time.gmtime(fold["test"][0] / 1000))
        lines.append(f"| {day} | {percent(fold['buy_and_hold'])} | {' | '.join(_folds(parts, row))} |")
    return lines


def _folds(parts: Mapping[str, Any], row: int) -> list[str]:
    cells = []
    for part in parts.values():
        fold = part["folds"][row]
        cells.append(percent(fold["total_return"]) + (f" ({fold['hold']})" if fold["fitted"] else ""))
    return cells


# -- numbers -------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """Format a fraction as a signed percentage."""
    return "–" if value is None else f"{value * 100:+.1f} %".replace("-", "−")


def number(value: float) -> str:
    """Format a number with two digits."""
    return f"{value:.2f}".replace("-", "−")


def signed(value: float) -> str:
    """Format a number with its sign and one digit."""
    return f"{value:+.1f}".replace("-", "−")


def yes(value: bool) -> str:
    """Format a truth value."""
    return "yes" if value else "no"


def spread(interval: Mapping[str, float] | None, show: Callable[[float], str]) -> str:
    """Format a figure with its interval."""
    return (
        f"{show(interval['value'])} [{show(interval['low'])}, {show(interval['high'])}]" if interval else "–"
    )
