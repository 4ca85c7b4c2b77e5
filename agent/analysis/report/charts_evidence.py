"""The charts of the evidence: what followed headlines, how long it lasted, and whether confidence was deserved."""

from __future__ import annotations

from typing import Final

from agent.analysis.clusters import FEW_DAYS
from agent.analysis.decay import Decay
from agent.analysis.event_study import EventStudy
from agent.analysis.outcomes import Outcomes
from agent.analysis.report import formats
from agent.analysis.report.plot import Figure, axis, layout
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

_COLOURS: Final = {"bearish": "--loss", "neutral": "--muted", "bullish": "--gain"}


def event_figure(study: EventStudy) -> Figure:
    """The mean path around headlines of each class, with its band."""
    reach = max(abs(study.offsets[0]), study.offsets[-1]) * study.interval
    size, unit = _unit(reach)
    x = [round(offset * study.interval / size, 4) for offset in study.offsets]
    traces: list[Figure] = []
    for name, path in study.classes.items():
        colour = _COLOURS[name]
        edge = {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        if path.days >= FEW_DAYS:
            traces += [
                {**edge, "y": _short(path.low), "legendgroup": name},
                {
                    **edge,
                    "y": _short(path.high),
                    "legendgroup": name,
                    "fill": "tonexty",
                    "fillcolor": f"{colour}-soft",
                },
            ]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} ({path.events:,})",
                "x": x,
                "y": _short(path.mean),
                "line": {"color": colour, "width": 1.8},
                "hovertemplate": "%{y:.3%}",
                "legendgroup": name,
            }
        )
    return {
        "data": traces,
        "layout": layout(
            xaxis=axis(
                title=f"{unit} from when the headline was known", zeroline=True, zerolinecolor="--muted"
            ),
            yaxis=axis(title="Abnormal move", tickformat=".2%", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def decay_figure(decay: Decay) -> Figure:
    """The information coefficient by age, with its band, and the curve that was fitted where one is stated."""
    size, unit = _unit(decay.ages[-1])
    stretch = decay.ages[0]
    middles = [(age - stretch / 2) / size for age in decay.ages]
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "measured",
            "x": middles,
            "y": _short(decay.ic),
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [high - ic for high, ic in zip(decay.high, decay.ic, strict=True)],
                "arrayminus": [ic - low for low, ic in zip(decay.low, decay.ic, strict=True)],
                "color": "--muted",
                "thickness": 1,
                "width": 0,
            },
            "marker": {"color": "--accent", "size": 6},
            "hovertemplate": "%{y:.3f}",
        }
    ]
    if decay.half_life is not None and decay.initial is not None:
        fitted = [decay.initial.value * 2 ** (-(age - stretch) / decay.half_life) for age in decay.ages]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "fitted",
                "x": middles,
                "y": _short(fitted),
                "line": {"color": "--accent", "width": 1.5},
                "hovertemplate": "%{y:.3f}",
            }
        )
    return {
        "data": traces,
        "layout": layout(
            xaxis=axis(title=f"{unit} from when the headline was known", rangemode="tozero"),
            yaxis=axis(title="Rank correlation", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def reliability_figure(found: Outcomes) -> Figure:
    """How often statements of like confidence came true; on the diagonal, confidence is a probability."""
    bins, enough = found.bins, found.days >= FEW_DAYS
    most = max(one.count for one in bins)
    texts = [
        f"<b>{formats.percent(one.right.value, 0)} came true</b><br>{one.count:,} {found.kind}, "
        f"{formats.percent(one.confidence, 0)} sure on average"
        + (
            f"<br>95\u00a0%: {formats.percent(one.right.low, 0)} to {formats.percent(one.right.high, 0)}"
            if enough
            else ""
        )
        for one in bins
    ]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "as sure as right",
                "x": [0, 1],
                "y": [0, 1],
                "line": {"color": "--muted", "width": 1, "dash": "dot"},
                "hoverinfo": "skip",
            },
            {
                "type": "scatter",
                "mode": "markers+lines",
                "name": found.kind,
                "x": [one.confidence for one in bins],
                "y": [one.right.value for one in bins],
                "error_y": {
                    "type": "data",
                    "visible": enough,
                    "symmetric": False,
                    "array": [one.right.high - one.right.value for one in bins],
                    "arrayminus": [one.right.value - one.right.low for one in bins],
                    "color": "--muted",
                    "thickness": 1,
                    "width": 0,
                },
                "marker": {"color": "--accent", "size": [6 + 12 * (one.count / most) ** 0.5 for one in bins]},
                "line": {"color": "--accent", "width": 1},
                "hovertext": texts,
                "hoverinfo": "text",
            },
        ],
        "layout": layout(
            xaxis=axis(title="Confidence", range=[0, 1], tickformat=".0%"),
            yaxis=axis(title="Came true", range=[0, 1], tickformat=".0%"),
            hovermode="closest",
        ),
    }


def _unit(span: int) -> tuple[int, str]:
    """ms of the unit that suits an axis of `span` ms, and its name."""
    if span >= 4 * DAY_MS:
        return DAY_MS, "Days"
    return (HOUR_MS, "Hours") if span > 6 * HOUR_MS else (MINUTE_MS, "Minutes")


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
