"""Charts of trials by parameter: a heat map for each pair of up to three, and points for each one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from math import floor, isqrt, log10
from typing import Any, Final, NamedTuple

import numpy as np
from markupsafe import Markup

from agent.analysis.report.section_page import Cell
from agent.analysis.report.svg import Axis, HeatCell, Series, heat_map, line_chart

_MOST_VALUES: Final = 12  # of a parameter that each have a row of their own
_BINS: Final = 8
_MAPPED: Final = 3  # parameters
_DOTS: Final = 6  # charts of single parameters


class Tried(NamedTuple):
    """A trial: its parameters, its value if it has one, its state, and further cells of its row."""

    params: Mapping[str, Any]
    value: float | None
    state: str = "complete"
    more: Sequence[Cell] = ()


def parameter_charts(tried: Sequence[Tried], what: str, show: Callable[[float], str]) -> list[Markup]:
    """Return the charts of the values of complete and pruned trials; `what` names the value."""
    valued = [one for one in tried if one.value is not None and one.state in ("complete", "pruned")]
    names = list(dict.fromkeys(name for one in valued for name in one.params))
    searched = [name for name in names if len({str(one.params.get(name)) for one in valued}) > 1]
    charts = []
    if len(searched) <= _MAPPED:
        charts += [_heat_map(valued, a, b, what, show) for a, b in combinations(searched, 2)]
    numeric = [name for name in searched if all(_is_number(one.params.get(name)) for one in valued)]
    if len(searched) != 2:  # the heat map of two shows the same
        charts += [_dots(valued, name, what, show) for name in numeric[:_DOTS]]
    return charts


def _heat_map(
    tried: Sequence[Tried], row: str, column: str, what: str, show: Callable[[float], str]
) -> Markup:
    """Draw the mean of each pair of values; if most pairs weren't tried, numbers are put into bins."""
    names = row, column
    rows, columns = (_labels([one.params.get(name) for one in tried], _MOST_VALUES) for name in names)
    if len(tried) < len(rows.order) * len(columns.order) / 2:
        bins = min(max(isqrt(len(tried)), 2), _BINS)
        rows, columns = (_labels([one.params.get(name) for one in tried], bins) for name in names)
    cells: dict[tuple[str, str], list[float]] = {}
    for one, at, across in zip(tried, rows.of, columns.of, strict=True):
        cells.setdefault((at, across), []).append(one.value or 0.0)
    found = [
        _cell(at, across, cells.get((at, across), []), f"{row} {at}, {column} {across}", show)
        for at in rows.order
        for across in columns.order
    ]
    best = max((cell for cell in found if cell.value is not None), key=lambda cell: cell.value or 0.0)
    title, told = f"{what} by {row} and {column}", f"The best cell: {best.text}"
    return heat_map(title, told, found, f"{row} ↓", f"{column} →")


def _cell(row: str, column: str, values: list[float], name: str, show: Callable[[float], str]) -> HeatCell:
    if not values:
        return HeatCell(row, column, None, "", f"{name}: not tried")
    mean = float(np.mean(values))
    count = f", mean of {len(values)}" if len(values) > 1 else ""
    return HeatCell(row, column, mean, show(mean), f"{name}: {show(mean)}{count}")


def _dots(tried: Sequence[Tried], name: str, what: str, show: Callable[[float], str]) -> Markup:
    x = [float(one.params[name]) for one in tried]
    y = [one.value or 0.0 for one in tried]
    texts = [f"{name} {at:g}: {show(value)}" for at, value in zip(x, y, strict=True)]
    series = Series(what, "accent", x, y, points=True, joined=False, texts=texts)
    best = max(range(len(y)), key=lambda number: y[number])
    across, up = Axis(name, lambda value: f"{value:g}"), Axis("", show)
    return line_chart(f"{what} by {name}", f"The best: {texts[best]}", [series], across, up)


class _Labels(NamedTuple):
    of: list[str]  # of each value
    order: list[str]


def _labels(values: Sequence[Any], most: int) -> _Labels:
    """Return a label for each value: itself, or one of `most` bins if there are more different numbers."""
    if not all(map(_is_number, values)):
        shown = [str(value) for value in values]
        return _Labels(shown, sorted(set(shown)))
    numbers = np.array(values, np.float64)
    distinct = np.unique(numbers)
    if len(distinct) <= most:
        return _Labels([f"{value:g}" for value in numbers], [f"{value:g}" for value in distinct])
    edges = np.linspace(distinct[0], distinct[-1], min(most, _BINS) + 1)
    decimals = max(0, 1 - floor(log10(edges[1] - edges[0])))  # so that no two bins have the same label
    names = [f"{low:.{decimals}f}–{high:.{decimals}f}" for low, high in pairwise(edges)]
    places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(names) - 1)
    return _Labels([names[place] for place in places], names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
