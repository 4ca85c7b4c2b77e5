"""Building blocks of the charts, in the JSON format of plotly.js.

A colour written `--name` is a CSS variable that the page resolves, so that charts follow its colour scheme.
Untrusted texts must be escaped, because plotly interprets HTML-like tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

from agent.analysis.report.report_data import Curve
from agent.analysis.significance import Interval

Figure = dict[str, Any]


def scatter(mode: str, x: Sequence[float], y: Sequence[float], **more: Any) -> Figure:
    """Return a trace of plotly's type "scatter"."""
    return {"type": "scatter", "mode": mode, "x": list(x), "y": list(y), **more}


def line(curve: Curve, name: str, colour: str, width: float) -> Figure:
    """Return a line for `curve`. Values are rounded to seven digits, which halves the size of a page."""
    values = [float(f"{value:.7g}") for value in curve.values]
    style = {"color": colour, "width": width}
    return scatter("lines", curve.ts, values, name=name, line=style, hovertemplate="%{y:,.2f}")


def markers(name: str, x: Sequence[int], y: Sequence[float], texts: Sequence[str], style: Figure) -> Figure:
    """Return points that show `texts` on hover; the texts must be escaped."""
    return scatter("markers", x, y, name=name, hovertext=list(texts), hoverinfo="text", marker=style)


def error_bars(intervals: Sequence[Interval], *, visible: bool = True) -> Figure:
    """Return error bars for points at the values of `intervals`."""
    return {
        "type": "data",
        "visible": visible,
        "symmetric": False,
        "array": [interval.high - interval.value for interval in intervals],
        "arrayminus": [interval.value - interval.low for interval in intervals],
        "color": "--muted",
        "thickness": 1,
        "width": 0,
    }


def axis(*, title: str = "", **more: Any) -> Figure:
    """Return an axis in the colours of the page."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "--rule",
        "linecolor": "--rule",
        "zerolinecolor": "--rule",
        "automargin": True,
        **more,
    }


def layout(**more: Any) -> Figure:
    """Return the layout that all charts share, updated with `more`."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "--font", "size": 12, "color": "--ink-soft"},
        "margin": {"l": 8, "r": 8, "t": 28, "b": 8},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "hoverlabel": {
            "bgcolor": "--paper",
            "bordercolor": "--rule",
            "font": {"color": "--ink"},
            "align": "left",
        },
        **more,
    }


def quoted(text: str, limit: int = 110, width: int = 44) -> str:
    """Quote, shorten, wrap and escape an untrusted text; the lines fit on a phone."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "<br>".join(escape(part) for part in wrap(f"“{text}”", width))
