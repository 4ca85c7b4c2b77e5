"""Results of the honesty checks as sentences and tables, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.analysis.report.formats import plain_percent as percent
from agent.analysis.report.section_page import (
    Finding,
    PageSection,
    SectionPage,
    Table,
    number,
    render_sections,
    text,
)
from agent.analysis.report.svg import HeatCell, heat_map
from agent.core.durations import format_duration
from agent.core.events import Decision, Message
from agent.research.cost_limits import CostCheck
from agent.research.lookahead import LookaheadCheck, LookaheadDivergence
from agent.research.masked_twin import MaskedCheck
from agent.research.placebo import PlaceboCheck
from agent.research.startup import StartupCheck
from agent.system.clock import iso

Check = LookaheadCheck | StartupCheck | PlaceboCheck | MaskedCheck | CostCheck


class CheckSummary(NamedTuple):
    """The result of a check: what was done, findings, a table, figures, examples (title, text), verdict."""

    name: str
    strategy: str
    intro: Sequence[str]
    passed: bool
    verdict: str
    findings: Sequence[Finding] = ()
    table: Table | None = None
    figures: Sequence[str] = ()
    examples: Sequence[tuple[str, str]] = ()


def summarise(found: Check) -> CheckSummary:
    """Return the summary of a check's result."""
    match found:
        case LookaheadCheck():
            return _lookahead(found)
        case StartupCheck():
            return _startup(found)
        case PlaceboCheck():
            return _placebo(found)
        case MaskedCheck():
            return _masked(found)
        case CostCheck():
            return _costs(found)


def render_check(found: Check, stamps: Sequence[str] = ()) -> str:
    """Return the page of a check."""
    summary = summarise(found)
    sections = [
        PageSection(
            "Evidence",
            summary.figures,
            summary.findings,
            tables=() if summary.table is None else [summary.table],
        )
    ]
    if summary.examples:
        rows = [(text(title), text(example)) for title, example in summary.examples]
        sections.append(PageSection("Examples", tables=[Table(("", ""), rows)]))
    if isinstance(found, CostCheck):
        sections += _cost_maps(found)
    return render_sections(
        SectionPage(
            f"check {summary.name}",
            summary.strategy,
            summary.intro,
            summary.verdict,
            sections,
            "good" if summary.passed else "bad",
            stamps=stamps,
        )
    )


def _lookahead(found: LookaheadCheck) -> CheckSummary:
    intro = (
        f"{found.strategy}: {found.decisions:,} decisions, {found.orders:,} of them orders, "
        f"on {found.events:,} events; {len(found.cuts)} cuts"
    )
    ends = "events and bar files" if found.files_cut else "events"
    findings = [
        _divergence("repeated on the same events", found.again),
        _divergence(f"on {ends} that end earlier", found.prefix),
    ]
    if not found.files_cut:
        findings.append(
            Finding(None, "not tested with truncated files: this machine can't truncate files for a process")
        )
    seen = found.foresight
    if seen is None:
        findings.append(Finding(None, "too few trades to test whether it has seen the real market"))
    else:
        how = f"{seen.fills:,} fills; {seen.way}: {seen.gain:+.1%}, p = {seen.p_value:.2g}"
        if not found.knows_the_market:
            told = f"on an artificial market, its trades aren't timed for the real one ({how})"
            findings.append(Finding(True, told))
        else:
            told = (
                f"on an artificial market, its trades are timed for the real one ({how}): "
                "it reads a file of the real prices, or its parameters were fitted to them"
            )
            first = [] if seen.example is None else [("the first", _describe(seen.example))]
            findings.append(Finding(False, told, first))
    failed = "The strategy uses information that it can't have yet: its results are worthless."
    if found.too_few and not (found.again or found.prefix):
        failed = f"{found.orders:,} orders are too few to detect lookahead: check a longer window."
    fine = "The strategy uses only what it has been shown."
    if seen is None or not found.files_cut:
        fine = "In what could be tested, the strategy uses only what it has been shown."
    verdict = fine if found.passed else failed
    return CheckSummary("lookahead", found.strategy, [intro], found.passed, verdict, findings)


def _divergence(case: str, slip: LookaheadDivergence | None) -> Finding:
    if slip is None:
        return Finding(True, f"{case}, it decides the same")
    cut = "" if slip.cut is None else f" (cut at {iso(slip.cut)})"
    details = [("event", _fields(slip.event))]
    if slip.error:
        details.append(("error", slip.error))
    else:
        details += [("expected", _describe(slip.expected)), ("found", _describe(slip.found))]
    told = f"{case}, it decides differently{cut}: first at {iso(slip.at)}, on this event"
    return Finding(False, told, details)


def _startup(found: StartupCheck) -> CheckSummary:
    findings = []
    for trial in found.trials:
        bars = ", ".join(f"{count:,} of {name}" for name, count in trial.warm_up.items())
        case = f"{bars}: {trial.decisions:,} decisions"
        if trial is found.trials[-1]:
            findings.append(Finding(None, f"{case}, compared with"))
        elif trial.at is None:
            findings.append(Finding(True, f"{case}, the same"))
        else:
            details = [("found", _describe(trial.found)), ("expected", _describe(trial.expected))]
            findings.append(Finding(False, f"{case}, the first different one at {iso(trial.at)}", details))
    verdict = (
        "More warm-up doesn't change the decisions."
        if found.passed
        else "More warm-up changes the decisions: declare a longer warm_up in the strategy."
    )
    intro = f"{found.strategy}: decisions from {iso(found.start)} on, by bars read before"
    return CheckSummary("startup", found.strategy, [intro], found.passed, verdict, findings)


def _placebo(found: PlaceboCheck) -> CheckSummary:
    test = found.test
    intro = [
        f"{found.strategy}: {percent(test.value)} over {found.trades:,} round trips",
        f"shuffled headlines, {test.draws} times: median {percent(test.median)}, "
        f"95 % between {percent(test.low)} and {percent(test.high)}",
        f"probability of a placebo at least as good: {test.p_value:.3f}",
    ]
    gain = "" if test.value > 0 else " It still lost money."
    verdict = (
        f"The timing of the headlines matters.{gain}"
        if found.passed
        else "The placebo does as well: the news didn't make this result."
    )
    return CheckSummary("placebo", found.strategy, intro, found.passed, verdict)


def _masked(found: MaskedCheck) -> CheckSummary:
    share = found.masked / max(found.headlines, 1)
    relabelled = found.relabelled / max(found.masked, 1)
    table = Table(
        ("", "original", "masked"),
        [
            (
                text("total return"),
                number(percent(found.total_return), found.total_return),
                number(percent(found.masked_return), found.masked_return),
            ),
            (
                text("round trips"),
                number(f"{found.trades:,}", found.trades),
                number(f"{found.masked_trades:,}", found.masked_trades),
            ),
        ],
    )
    figures = [
        f"{found.masked:,} of {found.headlines:,} headlines ({share:.0%}) had a name; "
        f"masking changed the class of {found.relabelled:,} "
        f"({relabelled:.1%}), {found.reversed:,} of them to the opposite; "
        f"scores moved by {found.shift:.3f} on average"
    ]
    if found.own_answers:
        figures.append(
            f"{found.own_answers:,} headlines have answers for single assets; both replays use those for the "
            "headline as a whole, because a masked headline names no asset"
        )
    if found.difference is not None:
        ahead = found.difference.total_return
        figures.append(
            f"masked minus original: {percent(ahead.value)} [{percent(ahead.low)}, {percent(ahead.high)}]"
        )
    verdict = (
        "The result doesn't depend on names."
        if found.passed
        else "Without names the result is gone: the model recalls names instead of reading the text."
    )
    examples = [("masked", f"{before} → {after}") for before, after in found.examples]
    intro = [f"{found.strategy}, original and masked headlines"]
    return CheckSummary("masked", found.strategy, intro, found.passed, verdict, (), table, figures, examples)


def _costs(found: CostCheck) -> CheckSummary:
    slippages = sorted({cell.slippage for cell in found.table})
    cells = {(cell.latency, cell.fees, cell.slippage): cell.total_return for cell in found.table}
    rows = []
    for latency in sorted({cell.latency for cell in found.table}):
        for fees in sorted({cell.fees for cell in found.table}):
            values = [cells[latency, fees, slippage] for slippage in slippages]
            shown = [number(percent(value), value, toned=True) for value in values]
            rows.append((text(format_duration(latency)), number(f"× {fees:g}", fees), *shown))
    table = Table(("latency", "fees", *(f"× {slippage:g}" for slippage in slippages)), rows)
    trip = "" if found.round_trip is None else f", {found.round_trip * 1e4:.1f} bps a round trip"
    figures = [f"at the configured costs{trip}: {percent(found.total_return)}"]
    if found.break_even is None:
        figures.append("still profitable at 64 times the configured costs")
    elif found.break_even == 0:
        figures.append("no profit even without fees, spread and slippage")
    else:
        at = found.break_even_round_trip
        trip = "" if at is None else f" ({at * 1e4:.1f} bps a round trip)"
        figures.append(f"break-even at {found.break_even:,.2f} times the configured costs{trip}")
    if found.total_return > 0:
        limit = found.latest
        late = "still profitable at a day" if limit is None else f"no profit at {format_duration(limit)}"
        figures.append(f"{late} of latency")
    figures.append(f"the configured costs are {found.costs}")
    stays = "stays profitable" if found.passed else "isn't profitable"
    verdict = f"The strategy {stays} at {found.margin:g} times the configured costs."
    if (fitted := found.fitted) is not None:
        figures.append(
            f"at the lower ends of their intervals {percent(fitted.low)}, at the upper ends "
            f"{percent(fitted.high)}"
        )
        verdict = f"The strategy {stays} at the upper ends of the fitted costs."
    intro = [f"{found.strategy}: total return by latency and fees (down), spread and slippage (across)"]
    return CheckSummary("costs", found.strategy, intro, found.passed, verdict, (), table, figures)


def _cost_maps(found: CostCheck) -> list[PageSection]:
    maps = []
    for latency in sorted({cell.latency for cell in found.table}):
        cells = [
            HeatCell(
                f"× {cell.fees:g}",
                f"× {cell.slippage:g}",
                cell.total_return,
                percent(cell.total_return),
                f"fees × {cell.fees:g}, slippage × {cell.slippage:g}: {percent(cell.total_return)}, "
                f"{cell.trades:,} round trips",
            )
            for cell in sorted(found.table, key=lambda cell: (cell.fees, cell.slippage))
            if cell.latency == latency
        ]
        title = f"Total return at a latency of {format_duration(latency)}"
        told = "; ".join(cell.text for cell in cells)
        maps.append(
            PageSection(title, charts=[heat_map(title, told, cells, "fees ↓", "spread and slippage →")])
        )
    return maps


def _describe(decision: Decision | None) -> str:
    return "nothing" if decision is None else _fields(decision)


def _fields(message: Message) -> str:
    """Return kind and fields of an event or decision, without empty fields and NaN."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    present = {
        name: value
        for name, value in fields.items()
        if value not in (None, "", False, (), {}) and value == value
    }
    shown = (f"{name}={getattr(value, 'value', value)}" for name, value in present.items())
    return " ".join([type(message).__name__, *shown])
