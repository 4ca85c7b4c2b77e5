"""What each part of the evidence says, in a sentence: for who reads no charts, and for who reads too much into them."""

from __future__ import annotations

from agent.analysis.clusters import FEW_DAYS
from agent.analysis.decay import Decay
from agent.analysis.event_study import EventPath, EventStudy
from agent.analysis.outcomes import Outcomes
from agent.analysis.regimes import RegimeRule
from agent.analysis.report import formats
from agent.analysis.report.data import Evidence, Significance
from agent.core.durations import format_duration


def readings_of(evidence: Evidence) -> dict[str, list[str]]:
    """Sentences by part of the evidence; a part that is missing has none."""
    found = {
        "significance": significance_words(evidence.significance, evidence.period),
        "outcomes": [outcome_words(one) for one in evidence.outcomes],
        "event_study": event_words(evidence.event_study) if evidence.event_study else [],
        "decay": [decay_words(evidence.decay)] if evidence.decay else [],
    }
    return {part: words for part, words in found.items() if words}


def significance_words(found: Significance, period: int) -> list[str]:
    """How far the result is from luck; `period` (ms) is that of the returns."""
    words = []
    if found.sharpe is not None and found.probabilistic_sharpe is not None:
        words.append(
            f"From {found.periods:,} {formats.frequency(period)} returns, "
            f"the Sharpe ratio of {formats.number(found.sharpe.value)} lies between "
            f"{formats.number(found.sharpe.low)} and {formats.number(found.sharpe.high)} (95\u00a0%); it is above zero with a "
            f"probability of {formats.percent(found.probabilistic_sharpe, 0)}."
        )
    if found.against_hold is not None:
        lead = found.against_hold.total_return
        words.append(
            f"Against buy-and-hold the return differs by {formats.percent(lead.value, signed=True)}, "
            f"between {formats.percent(lead.low, signed=True)} and {formats.percent(lead.high, signed=True)} (95\u00a0%)."
        )
    return words


def outcome_words(found: Outcomes) -> str:
    """Whether what was said came true more often than by saying the same every time."""
    accuracy, ahead = found.accuracy, format_duration(found.horizon * found.interval)
    chance = f"{formats.percent(found.chance)} that saying the commonest outcome every time would have had"
    if found.days < FEW_DAYS:
        return (
            f"Of {found.count:,} {found.kind}, {formats.percent(accuracy.value)} named the next {ahead} rightly, beside the {chance}. "
            f"They fell on {_days(found.days)}: too few to tell one from the other."
        )
    if accuracy.low > found.chance:
        judged = "better than"
    elif accuracy.high < found.chance:
        judged = "worse than"
    else:
        judged = "not distinguishable from"
    return (
        f"Of {found.count:,} {found.kind}, {formats.percent(accuracy.value)} named the next {ahead} rightly "
        f"({formats.percent(accuracy.low)} to {formats.percent(accuracy.high)}, 95\u00a0%): {judged} the {chance}."
    )


def event_words(study: EventStudy) -> list[str]:
    """What the price had done before headlines of a side, and what it did after."""
    words = []
    start, end = 0, len(study.offsets) - 1
    before = format_duration(-study.offsets[start] * study.interval)
    after = format_duration(study.offsets[end] * study.interval)
    for name, path in study.classes.items():
        if name != "neutral":
            words.append(
                f"{path.events:,} {name} headlines on {_days(path.days)}: in the {before} before they were known the price had moved "
                f"{_moved(path, start, turned=True)}, in the {after} after it moved {_moved(path, end)}."
            )
    return words


def _moved(path: EventPath, row: int, *, turned: bool = False) -> str:
    """The move to or from bar 0, its band, and whether it can be told from zero. Before bar 0 the path is the move turned round."""
    value, low, high = path.mean[row], path.low[row], path.high[row]
    if turned:
        value, low, high = -value, -high, -low
    if path.days < FEW_DAYS:
        return f"{formats.percent(value, 2, signed=True)} (too few days for an interval)"
    doubt = ", not distinguishable from zero" if low <= 0 <= high else ""
    span = f"{formats.percent(low, 2, signed=True)} to {formats.percent(high, 2, signed=True)}"
    return f"{formats.percent(value, 2, signed=True)} ({span}{doubt})"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def decay_words(decay: Decay) -> str:
    """The half-life, or why there is none."""
    if decay.half_life is None or decay.half_life_low is None:
        return f"{decay.headlines:,} headlines on {decay.days:,} days: {decay.reason}. So no half-life is stated."
    low = formats.duration(decay.half_life_low)
    span = (
        f"{low} to {formats.duration(decay.half_life_high)}"
        if decay.half_life_high is not None
        else f"{low} or longer"
    )
    return (
        f"What a headline's sentiment says about the price halves every {formats.duration(decay.half_life)} ({span}, 95\u00a0%), "
        f"from {decay.headlines:,} headlines on {decay.days:,} days."
    )


def rule_words(rule: RegimeRule, period: int) -> str:
    """The rule that names the regime of a period (ms)."""
    units = formats.plural(period)
    one = units.removesuffix("s")
    least = (
        "its volatility"
        if rule.threshold == 1
        else f"{formats.number(rule.threshold, 1)} times its volatility"
    )
    return (
        f"A {one} is bull if the return of the {rule.lookback} {units} before it is above {least} over these {units}, bear if it is "
        f"below minus that, else sideways. What happens in the {one} itself plays no part."
    )
