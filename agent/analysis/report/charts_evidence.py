"""The charts of the evidence: price moves around headlines, their decay, and calibration."""

from __future__ import annotations

from typing import Final

from markupsafe import Markup

from agent.analysis.day_bootstrap import FEW_DAYS
from agent.analysis.decay import Decay
from agent.analysis.event_study import EventStudy
from agent.analysis.outcomes import Outcomes
from agent.analysis.report import formats
from agent.analysis.report.svg import Axis, Series, line_chart
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

_COLOURS: Final = {"bearish": "loss", "neutral": "muted", "bullish": "gain"}


def event_chart(study: EventStudy) -> Markup:
    """Draw the mean price move around headlines of each class, with its band."""
    reach = max(abs(study.offsets[0]), study.offsets[-1]) * study.interval
    size, unit = _unit(reach)
    x = [offset * study.interval / size for offset in study.offsets]
    series = []
    for name, path in study.classes.items():
        band = (path.low, path.high) if path.days >= FEW_DAYS else ((), ())
        series.append(Series(f"{name} ({path.events:,})", _COLOURS[name], x, path.mean, *band))
    ends = (
        f"{name}: {formats.percent(path.mean[-1], 2, signed=True)} at the end"
        for name, path in study.classes.items()
    )
    return line_chart(
        "Mean price move around headlines, by predicted class",
        "; ".join(ends),
        series,
        Axis(f"{unit} after the headline was known", _short, min(x), max(x)),
        Axis("Abnormal return", lambda value: formats.percent(value, 2, signed=True)),
    )


def decay_chart(decay: Decay) -> Markup:
    """Draw the information coefficient by age with its intervals, and the fitted curve if there is one."""
    size, unit = _unit(decay.ages[-1])
    stretch = decay.ages[0]
    middles = [(age - stretch / 2) / size for age in decay.ages]
    series = [
        Series("measured", "accent", middles, decay.ic, decay.low, decay.high, points=True, joined=False)
    ]
    if decay.half_life is not None and decay.initial is not None:
        fitted = [decay.initial.value * 2 ** (-(age - stretch) / decay.half_life) for age in decay.ages]
        series.append(Series("fitted", "warn", middles, fitted))
    return line_chart(
        "Rank correlation of the score with later returns, by age",
        f"{formats.number(decay.ic[0], 3)} at first, {formats.number(decay.ic[-1], 3)} at last",
        series,
        Axis(f"{unit} after the headline was known", _short, 0.0),
        Axis("Rank correlation", lambda value: formats.number(value, 2)),
    )


def reliability_chart(found: Outcomes) -> Markup:
    """Draw the share of correct forecasts by confidence. On the diagonal the two are equal."""
    enough, most = found.days >= FEW_DAYS, max(group.count for group in found.bins)
    texts = []
    for group in found.bins:
        share = group.right
        text = (
            f"{formats.percent(share.value, 0)} correct; {group.count:,} {found.kind}, "
            f"mean confidence {formats.percent(group.confidence, 0)}"
        )
        interval = f"95\u00a0% interval {formats.percent(share.low, 0)} to {formats.percent(share.high, 0)}"
        texts.append(f"{text}; {interval}" if enough else text)
    shares = [group.right for group in found.bins]
    measured = Series(
        found.kind,
        "accent",
        [group.confidence for group in found.bins],
        [share.value for share in shares],
        [share.low for share in shares] if enough else (),
        [share.high for share in shares] if enough else (),
        points=True,
        radius=[3 + 6 * (group.count / most) ** 0.5 for group in found.bins],
        texts=texts,
    )
    perfect = Series("perfect calibration", "muted", [0, 1], [0, 1], dashed=True)
    return line_chart(
        f"Share of correct {found.kind} by confidence",
        "; ".join(texts),
        [perfect, measured],
        Axis("Confidence", lambda value: formats.percent(value, 0), 0.0, 1.0),
        Axis("Correct", lambda value: formats.percent(value, 0), 0.0, 1.0),
    )


def _unit(span: int) -> tuple[int, str]:
    """Return the length (ms) and the name of a suitable unit for an axis of `span` ms."""
    if span >= 4 * DAY_MS:
        return DAY_MS, "Days"
    return (HOUR_MS, "Hours") if span > 6 * HOUR_MS else (MINUTE_MS, "Minutes")


def _short(value: float) -> str:
    return f"{value:g}".replace("-", "−")
