"""The charts of the evidence: price moves around headlines, their decay, and calibration."""

from __future__ import annotations

from typing import Final

from agent.analysis.day_bootstrap import FEW_DAYS
from agent.analysis.decay import Decay
from agent.analysis.event_study import EventStudy
from agent.analysis.outcomes import Outcomes
from agent.analysis.report import formats
from agent.analysis.report.plot import Figure, axis, error_bars, layout, scatter
from agent.analysis.significance import Interval
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

_COLOURS: Final = {"bearish": "--loss", "neutral": "--muted", "bullish": "--gain"}


def event_figure(study: EventStudy) -> Figure:
    """Draw the mean price move around headlines of each class, with its band."""
    reach = max(abs(study.offsets[0]), study.offsets[-1]) * study.interval
    size, unit = _unit(reach)
    x = [round(offset * study.interval / size, 4) for offset in study.offsets]
    traces: list[Figure] = []
    for name, path in study.classes.items():
        colour = _COLOURS[name]
        edge = {"legendgroup": name, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        if path.days >= FEW_DAYS:
            fill = {"fill": "tonexty", "fillcolor": f"{colour}-soft"}
            traces.append(scatter("lines", x, _short(path.low), **edge))
            traces.append(scatter("lines", x, _short(path.high), **edge, **fill))
        title, style = f"{name} ({path.events:,})", {"color": colour, "width": 1.8}
        mean = scatter("lines", x, _short(path.mean), name=title, line=style, hovertemplate="%{y:.3%}")
        traces.append(mean | {"legendgroup": name})
    return {
        "data": traces,
        "layout": layout(
            xaxis=axis(title=f"{unit} after the headline was known", zeroline=True, zerolinecolor="--muted"),
            yaxis=axis(title="Abnormal return", tickformat=".2%", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def decay_figure(decay: Decay) -> Figure:
    """Draw the information coefficient by age with its intervals, and the fitted curve if there is one."""
    size, unit = _unit(decay.ages[-1])
    stretch = decay.ages[0]
    middles = [(age - stretch / 2) / size for age in decay.ages]
    intervals = [Interval(*values) for values in zip(decay.ic, decay.low, decay.high, strict=True)]
    measured = scatter("markers", middles, _short(decay.ic), name="measured", error_y=error_bars(intervals))
    traces = [measured | {"marker": {"color": "--accent", "size": 6}, "hovertemplate": "%{y:.3f}"}]
    if decay.half_life is not None and decay.initial is not None:
        fitted = [decay.initial.value * 2 ** (-(age - stretch) / decay.half_life) for age in decay.ages]
        style = {"color": "--accent", "width": 1.5}
        traces.append(
            scatter("lines", middles, _short(fitted), name="fitted", line=style, hovertemplate="%{y:.3f}")
        )
    return {
        "data": traces,
        "layout": layout(
            xaxis=axis(title=f"{unit} after the headline was known", rangemode="tozero"),
            yaxis=axis(title="Rank correlation", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def reliability_figure(found: Outcomes) -> Figure:
    """Draw the share of correct forecasts by confidence. On the diagonal the two are equal."""
    enough, most = found.days >= FEW_DAYS, max(group.count for group in found.bins)
    texts, shares = [], [group.right for group in found.bins]
    for group, share in zip(found.bins, shares, strict=True):
        text = (
            f"<b>{formats.percent(share.value, 0)} correct</b><br>{group.count:,} {found.kind}, "
            f"mean confidence {formats.percent(group.confidence, 0)}"
        )
        interval = f"95\u00a0% interval {formats.percent(share.low, 0)} to {formats.percent(share.high, 0)}"
        texts.append(f"{text}<br>{interval}" if enough else text)
    diagonal = {"color": "--muted", "width": 1, "dash": "dot"}
    sizes = [6 + 12 * (group.count / most) ** 0.5 for group in found.bins]
    points = scatter(
        "markers+lines",
        [group.confidence for group in found.bins],
        [share.value for share in shares],
        name=found.kind,
        error_y=error_bars(shares, visible=enough),
        marker={"color": "--accent", "size": sizes},
        line={"color": "--accent", "width": 1},
        hovertext=texts,
        hoverinfo="text",
    )
    return {
        "data": [
            scatter("lines", [0, 1], [0, 1], name="perfect calibration", line=diagonal, hoverinfo="skip"),
            points,
        ],
        "layout": layout(
            xaxis=axis(title="Confidence", range=[0, 1], tickformat=".0%"),
            yaxis=axis(title="Correct", range=[0, 1], tickformat=".0%"),
            hovermode="closest",
        ),
    }


def _unit(span: int) -> tuple[int, str]:
    """Return the length (ms) and the name of a suitable unit for an axis of `span` ms."""
    if span >= 4 * DAY_MS:
        return DAY_MS, "Days"
    return (HOUR_MS, "Hours") if span > 6 * HOUR_MS else (MINUTE_MS, "Minutes")


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
