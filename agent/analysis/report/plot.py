"""Building blocks of the charts over time, which `page/charts.js` draws with Lightweight Charts.

A colour written `--name` is a CSS variable that the page resolves, so that charts follow its colour scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from agent.analysis.report.packing import PackedPoints, pack_points
from agent.analysis.report.report_data import Curve

Format = Literal["amount", "percent", "number"]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a pane. `fill` colours the area between it and zero."""

    name: str
    colour: str
    points: PackedPoints
    width: int = 1
    fill: bool = False


class Pane(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chart that shares the time axis with those above it. `share` is its part of the height."""

    lines: list[Line]
    format: Format = "number"
    title: str = ""
    share: float = 1.0


class Mark(msgspec.Struct, frozen=True):
    """A text at a time (UTC ms) in the first pane."""

    ts: int
    text: str


class LineChart(msgspec.Struct, frozen=True, omit_defaults=True, tag="lines"):
    """Lines over time, in panes below each other."""

    label: str  # for screen readers
    panes: list[Pane]
    marks: list[Mark] = []


class PriceChart(msgspec.Struct, frozen=True, omit_defaults=True, tag="prices"):
    """Candles of a symbol, which the page has apart, with its trades, and lines over and below them.

    `headlines` are rows of time in s, class, confidence, kind of news, title and publisher; `levels` rows of
    start and end in s, price, and whether it is a stop.
    """

    label: str
    symbol: str
    panes: list[Pane]  # the first one is that of the candles
    headlines: list[tuple[int, str, float, str, str, str]] = []
    levels: list[tuple[int, int, float, bool]] = []


Figure = LineChart | PriceChart


def line(curve: Curve, name: str, colour: str, width: int = 1, *, fill: bool = False) -> Line:
    """Return a line for `curve`, with about six digits."""
    return Line(name, colour, pack_points(curve), width, fill)


def changed(curve: Curve, values: Sequence[float]) -> Curve:
    """Return a curve with other values at the same times."""
    return Curve(curve.ts, list(values))
