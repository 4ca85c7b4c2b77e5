"""Sentences that describe each part of the evidence."""

from __future__ import annotations

from agent.analysis.day_bootstrap import FEW_DAYS
from agent.analysis.decay import Decay
from agent.analysis.event_study import EventPath, EventStudy
from agent.analysis.kind_study import KindMove, KindStudy
from agent.analysis.outcomes import Outcomes
from agent.analysis.regimes import RegimeRule
from agent.analysis.report import formats
from agent.analysis.report.report_data import RunEvidence, Significance
from agent.core.durations import format_duration


def descriptions_of(evidence: RunEvidence) -> dict[str, list[str]]:
    """Return sentences by part of the evidence; missing parts are left out."""
    found = {
        "significance": describe_significance(evidence.significance, evidence.period),
        "outcomes": [describe_outcomes(result) for result in evidence.outcomes],
        "event_study": describe_event_study(evidence.event_study) if evidence.event_study else [],
        "kinds": describe_kinds(evidence.kinds) if evidence.kinds else [],
        "decay": [describe_decay(evidence.decay)] if evidence.decay else [],
    }
    return {part: sentences for part, sentences in found.items() if sentences}


def describe_significance(found: Significance, period: int) -> list[str]:
    """Describe the intervals of the result; `period` is the length of its periods in ms."""
    sentences = []
    if found.sharpe is not None and found.probabilistic_sharpe is not None:
        sentences.append(
            f"The Sharpe ratio of {found.periods:,} {formats.frequency(period)} returns is "
            f"{formats.number(found.sharpe.value)} (95\u00a0% interval {formats.number(found.sharpe.low)} to "
            f"{formats.number(found.sharpe.high)}); the probability that the true ratio is above zero is "
            f"{formats.percent(found.probabilistic_sharpe, 0)}."
        )
    if found.against_hold is not None:
        lead = found.against_hold.total_return
        low, high = (formats.number(bound * 100, 1, signed=True) for bound in (lead.low, lead.high))
        value = formats.number(lead.value * 100, 1, signed=True)
        sentences.append(
            f"The return minus that of buy-and-hold is {value}\u00a0percentage points "
            f"(95\u00a0% interval {low} to {high})."
        )
    return sentences


def describe_outcomes(found: Outcomes) -> str:
    """Compare the accuracy of forecasts with that of always predicting the most frequent outcome."""
    accuracy, ahead = found.accuracy, format_duration(found.horizon * found.interval)
    share = formats.percent(accuracy.value)
    correct = f"{share} of {found.count:,} {found.kind} predicted the next {ahead} correctly"
    baseline = f"{formats.percent(found.chance)} of always predicting the most frequent outcome"
    if found.days < FEW_DAYS:
        return (
            f"{correct}, compared with the {baseline}. "
            f"They are from {_days(found.days)}, too few to draw a conclusion."
        )
    if accuracy.low > found.chance:
        comparison = "better than"
    elif accuracy.high < found.chance:
        comparison = "worse than"
    else:
        comparison = "not distinguishable from"
    interval = f"95\u00a0% interval {formats.percent(accuracy.low)} to {formats.percent(accuracy.high)}"
    return f"{correct} ({interval}): {comparison} the {baseline}."


def describe_event_study(study: EventStudy) -> list[str]:
    """Describe how the price moved before and after bearish and bullish headlines."""
    sentences = []
    start, end = 0, len(study.offsets) - 1
    before = format_duration(-study.offsets[start] * study.interval)
    after = format_duration(study.offsets[end] * study.interval)
    for name, path in study.classes.items():
        if name != "neutral":
            sentences.append(
                f"{path.events:,} {name} headlines on {_days(path.days)}: "
                f"in the {before} before they were known, the price moved {_move(path, start, before=True)}; "
                f"in the {after} after, it moved {_move(path, end)}."
            )
    return sentences


def describe_kinds(study: KindStudy) -> list[str]:
    """State how many scores are of the symbols' own assets, and after which kinds the price moved."""
    share = formats.percent(study.own / study.headlines, 0)
    sentences = [
        f"Of {study.headlines:,} scores, one for each headline and traded symbol that it is about, "
        f"{study.own:,} ({share}) are of the symbol's own asset; the others are of the headline as a whole."
    ]
    barred = {kind: path.headlines for kind, path in study.kinds.items() if not path.votes}
    if barred:
        sentences.append(
            f"{sum(barred.values()):,} scores did not vote, because signals.kinds leaves out "
            f"{', '.join(barred)}."
        )
    judged = [
        (kind, move)
        for kind, path in study.kinds.items()
        for move in path.moves
        if move.horizon > 0 and move.days >= FEW_DAYS
    ]
    if not judged:
        return [*sentences, f"No kind has headlines on {FEW_DAYS} days, too few to draw a conclusion."]
    moved: dict[str, list[str]] = {}
    for kind, move in judged:
        if is_distinguishable(move):
            moved.setdefault(kind, []).append(format_duration(move.horizon))
    if not moved:
        return [*sentences, "After no kind of news is the price move distinguishable from zero."]
    listed = ", ".join(f"{kind_name(kind)} ({', '.join(horizons)})" for kind, horizons in moved.items())
    count = sum(map(len, moved.values()))
    verb = "is" if count == 1 else "are"
    return [
        *sentences,
        f"{count} of {len(judged)} moves after headlines {verb} distinguishable from zero: {listed}. "
        "By chance alone about one in twenty would be.",
    ]


def kind_name(kind: str) -> str:
    """Return the kind's name for readers."""
    return kind or "unknown kind"


def is_distinguishable(move: KindMove) -> bool:
    """Return True if the interval of the mean excludes zero and comes from enough days."""
    return move.mean is not None and move.days >= FEW_DAYS and move.mean.excludes(0.0)


def _move(path: EventPath, row: int, *, before: bool = False) -> str:
    """Format the move from bar 0 to `row` with its interval; with `before` the move from `row` to bar 0."""
    value, low, high = path.mean[row], path.low[row], path.high[row]
    if before:
        value, low, high = -value, -high, -low
    if path.days < FEW_DAYS:
        return f"{formats.percent(value, 2, signed=True)} (too few days for an interval)"
    note = ", not distinguishable from zero" if low <= 0 <= high else ""
    interval = f"{formats.percent(low, 2, signed=True)} to {formats.percent(high, 2, signed=True)}"
    return f"{formats.percent(value, 2, signed=True)} ({interval}{note})"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def describe_decay(decay: Decay) -> str:
    """State the half-life, or the reason for a missing one."""
    sample = f"{decay.headlines:,} headlines on {decay.days:,} days"
    if decay.half_life is None or decay.half_life_low is None:
        return f"{sample}: {decay.reason}, so the half-life is undefined."
    low = formats.duration(decay.half_life_low)
    high = "or longer" if decay.half_life_high is None else f"to {formats.duration(decay.half_life_high)}"
    return (
        f"The predictive power of a headline's sentiment halves every {formats.duration(decay.half_life)} "
        f"(95\u00a0% interval {low} {high}), measured on {sample}."
    )


def describe_regime_rule(rule: RegimeRule, period: int) -> str:
    """Describe the rule for the regime of a period; `period` is its length in ms."""
    units = formats.plural(period)
    one = units.removesuffix("s")
    least = (
        "its volatility"
        if rule.threshold == 1
        else f"{formats.number(rule.threshold, 1)} times its volatility"
    )
    return (
        f"A {one} is bull if the return of the {rule.lookback} {units} before it is above {least} "
        f"over these {units}, bear if it is below minus that, else sideways. The {one} itself is not used."
    )
