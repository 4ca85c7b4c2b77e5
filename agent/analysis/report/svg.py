"""Charts that aren't over time, as inline SVG: bars, lines with bands, points with intervals, heat maps.

They need no script, follow the page's colours by CSS classes (`c-accent`, `c-gain` …), and have a title and a
description for screen readers. All texts are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, isfinite, log10
from typing import Final, NamedTuple

from markupsafe import Markup

WIDTH: Final = 640
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 14, 16, 56

Show = Callable[[float], str]


class Series(NamedTuple):
    """A line through (x, y), with a band between `low` and `high` if they are given.

    `points` draws markers with error bars instead of a band; `radius` and `texts` have one for each. `dashed`
    is for references.
    """

    name: str
    colour: str  # of CSS: accent, gain, loss, muted, warn
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    points: bool = False
    joined: bool = True
    radius: Sequence[float] = ()
    dashed: bool = False
    texts: Sequence[str] = ()


class Axis(NamedTuple):
    """Title and range of an axis; a bound that is None comes from the data."""

    title: str
    show: Show
    low: float | None = None
    high: float | None = None


class ChartBar(NamedTuple):
    """A bar: its label, value, and the text that shows on hover."""

    label: str
    value: float
    text: str
    colour: str = "accent"


class HeatCell(NamedTuple):
    """A cell of a heat map: row, column, value (or None), text in it and on hover."""

    row: str
    column: str
    value: float | None
    shown: str
    text: str


def bar_chart(title: str, description: str, bars: Sequence[ChartBar], show: Show) -> Markup:
    """Draw vertical bars from zero; negative ones hang."""
    values = [bar.value for bar in bars]
    ticks = _ticks(min(0.0, *values), max(0.0, *values), 4)
    bottom = HEIGHT - _BOTTOM
    scale = _scale(ticks[0], ticks[-1], bottom, _TOP)
    parts = [_rows(ticks, scale, show)]
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(bars), 1)
    every = ceil(len(bars) * max(map(len, (bar.label for bar in bars)), default=1) / 30) or 1
    for number, bar in enumerate(bars):
        x, zero, top = _LEFT + slot * number, scale(0.0), scale(bar.value)
        y, height = min(zero, top), max(abs(zero - top), 1.0 if bar.value else 0.0)
        parts.append(
            f'<rect class="c-{bar.colour}" x="{x + slot * 0.1:.1f}" y="{y:.1f}" width="{slot * 0.8:.1f}" '
            f'height="{height:.1f}"><title>{escape(bar.text)}</title></rect>'
        )
        if number % every == 0:
            parts.append(_text(x + slot / 2, bottom + 22, bar.label, "middle"))
    parts.append(_line(_LEFT, scale(0.0), WIDTH - _RIGHT, scale(0.0), "zero"))
    return _figure(title, description, parts, height=bottom + 34)


def line_chart(title: str, description: str, series: Sequence[Series], x_axis: Axis, y_axis: Axis) -> Markup:
    """Draw lines, bands, and points with error bars on two linear axes, with a legend."""
    xs = [value for one in series for value in one.x]
    ys = [value for one in series for part in (one.y, one.low, one.high) for value in part if isfinite(value)]
    x_low, x_high = _bounds(x_axis, xs)
    y_ticks = _ticks(*_bounds(y_axis, ys), 5)
    x_ticks = [tick for tick in _ticks(x_low, x_high, 5) if x_low <= tick <= x_high]
    across = _scale(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [_rows(y_ticks, up, y_axis.show)]
    below = HEIGHT - _BOTTOM + 20
    last = WIDTH - 2 * _RIGHT  # a label beyond it, centred, would be cut off
    parts += [
        _text(across(tick), below, x_axis.show(tick), "end" if across(tick) > last else "middle")
        for tick in x_ticks
    ]
    if x_low < 0 < x_high:
        parts.append(_line(across(0), _TOP, across(0), HEIGHT - _BOTTOM, "zero"))
    if y_ticks[0] < 0 < y_ticks[-1]:
        parts.append(_line(_LEFT, up(0), WIDTH - _RIGHT, up(0), "zero"))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x_axis.title, "middle"))
    for one in series:
        parts += _series(one, across, up)
    return _figure(title, description, parts, [(one.name, one.colour) for one in series], y_axis.title)


def heat_map(
    title: str, description: str, cells: Sequence[HeatCell], row_title: str, column_title: str
) -> Markup:
    """Draw a table of colours: green above zero, red below, stronger with the distance from it."""
    rows, columns = list(dict.fromkeys(c.row for c in cells)), list(dict.fromkeys(c.column for c in cells))
    most = max((abs(c.value) for c in cells if c.value is not None and isfinite(c.value)), default=0.0) or 1.0
    left, top, cell_height = 92, 46, max(26.0, min(44.0, 240 / max(len(rows), 1)))
    width = (WIDTH - left - _RIGHT) / max(len(columns), 1)
    height = top + cell_height * len(rows) + 10
    parts = [
        _text(left + (WIDTH - left - _RIGHT) / 2, 16, column_title, "middle"),
        _text(6, 16, row_title, "start"),
    ]
    every = ceil(len(columns) * max(map(len, columns), default=1) / 34) or 1
    for number, name in enumerate(columns):
        if number % every == 0:
            parts.append(_text(left + width * (number + 0.5), top - 8, name, "middle"))
    for number, name in enumerate(rows):
        parts.append(_text(left - 8, top + cell_height * (number + 0.5) + 4, name, "end"))
    fits = width >= 8 * max((len(c.shown) for c in cells), default=0)
    for cell in cells:
        x, y = left + width * columns.index(cell.column), top + cell_height * rows.index(cell.row)
        known = cell.value is not None and isfinite(cell.value)
        share = abs(cell.value or 0.0) / most if known else 0.0
        colour = "muted" if not known else "gain" if (cell.value or 0.0) >= 0 else "loss"
        parts.append(
            f'<rect class="c-{colour}" fill-opacity="{0.08 + 0.62 * share:.2f}" x="{x + 1:.1f}" '
            f'y="{y + 1:.1f}" width="{max(width - 2, 1):.1f}" height="{cell_height - 2:.1f}">'
            f"<title>{escape(cell.text)}</title></rect>"
        )
        if fits:
            parts.append(_text(x + width / 2, y + cell_height / 2 + 4, cell.shown, "middle", "cell"))
    return _figure(title, description, parts, height=height)


def _series(one: Series, across: Show | Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    parts = []
    points = [(float(across(x)), up(y)) for x, y in zip(one.x, one.y, strict=True)]
    if one.low and not one.points:
        edge = [f"{across(x):.1f},{up(y):.1f}" for x, y in zip(one.x, one.low, strict=True)]
        back = [f"{across(x):.1f},{up(y):.1f}" for x, y in zip(one.x, one.high, strict=True)]
        parts.append(f'<polygon class="c-{one.colour} band" points="{" ".join(edge + back[::-1])}"/>')
    if one.joined:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = ' stroke-dasharray="3 4"' if one.dashed else ""
        parts.append(f'<polyline class="s-{one.colour}"{dashed} points="{path}"/>')
    if one.points:
        for number, (x, y) in enumerate(points):
            if one.low:
                parts.append(_line(x, up(one.low[number]), x, up(one.high[number]), "error"))
            radius = one.radius[number] if one.radius else 3.5
            text = f"<title>{escape(one.texts[number])}</title>" if one.texts else ""
            parts.append(
                f'<circle class="c-{one.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{text}</circle>'
            )
    return parts


def _figure(
    title: str,
    description: str,
    parts: Sequence[str],
    legend: Sequence[tuple[str, str]] = (),
    y_title: str = "",
    height: float = HEIGHT,
) -> Markup:
    keys = "".join(f'<li class="k-{colour}">{escape(name)}</li>' for name, colour in legend)
    above = f'<ul class="key">{f"<li>{escape(y_title)}</li>" if y_title else ""}{keys}</ul>' if legend else ""
    return Markup(
        f'<figure class="plot">{above}<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg></figure>"
    )


def _rows(ticks: Sequence[float], scale: Callable[[float], float], show: Show) -> str:
    return "".join(
        _line(_LEFT, scale(tick), WIDTH - _RIGHT, scale(tick), "grid")
        + _text(_LEFT - 8, scale(tick) + 4, show(tick), "end")
        for tick in ticks
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    own = f' class="{kind}"' if kind else ""
    return f'<text{own} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def _bounds(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return about `most` round numbers from at or below `low` to at or above `high`."""
    span = high - low
    if not span > 0:
        low, high, span = low - 0.5, high + 0.5, 1.0
    rough = span / most
    size = 10.0 ** floor(log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
