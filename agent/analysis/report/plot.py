"""The parts of a chart, as plotly.js reads them.

A colour written `--name` is a CSS variable that the page resolves, so that a chart follows light, dark and paper. Texts from
outside are escaped here: plotly reads HTML-like tags in what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

from agent.analysis.report.data import Series

Figure = dict[str, Any]


def line(series: Series, name: str, colour: str, width: float) -> Figure:
    """A curve over time, its values to seven digits: that halves a page."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": series.ts,
        "y": [float(f"{value:.7g}") for value in series.values],
        "line": {"color": colour, "width": width},
        "hovertemplate": "%{y:,.2f}",
    }


def markers(name: str, x: Sequence[int], y: Sequence[float], texts: Sequence[str]) -> Figure:
    """Points that show `texts`, escaped already, on hover."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "hovertext": list(texts),
        "hoverinfo": "text",
    }


def axis(*, title: str = "", **more: Any) -> Figure:
    """An axis in the page's colours."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "--rule",
        "linecolor": "--rule",
        "zerolinecolor": "--rule",
        "automargin": True,
        **more,
    }


def layout(**more: Any) -> Figure:
    """The frame of every chart."""
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
    """A foreign text in quotation marks, shortened, in lines that fit on a phone, and escaped."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "<br>".join(escape(part) for part in wrap(f"“{text}”", width))
