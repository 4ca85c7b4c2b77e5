"""The one layout of all waterfall charts: from one amount, over the parts, to another.

The command line, the report, the page of the twin and the dashboard draw the steps that `lay_out` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import msgspec

_WIDEST_GAP: Final = 0.75
"""If zero is farther from the parts than this share of the chart, the axis is cut."""

_MARGIN: Final = 0.15  # of a cut axis, on each side


class WaterfallStep(msgspec.Struct, frozen=True):
    """A row; begin and width of its bar are in per cent of the chart's width."""

    label: str
    amount: Decimal | float
    left: float
    width: float
    is_total: bool = False


class Waterfall(msgspec.Struct, frozen=True):
    """The rows, from the first amount to the last one. `cut` is where the axis begins unless it has zero."""

    steps: list[WaterfallStep]
    cut: float | None = None


def lay_out(
    first: tuple[str, Decimal | float],
    parts: Sequence[tuple[str, Decimal | float]],
    last: tuple[str, Decimal | float],
) -> Waterfall:
    """Lay out a chart; each bar begins where the one before ends. `parts` are signed and add up to
    `last` - `first`.

    The bars of the first and the last amount begin at zero. If the parts would be too small to see beside
    them, the axis is cut: its end nearest to zero is `cut`.
    """
    levels = [float(first[1])]
    for _, amount in parts:
        levels.append(levels[-1] + float(amount))
    low, high = min(float(last[1]), *levels), max(float(last[1]), *levels)
    base, cut = 0.0, None
    span = high - low
    if span > 0 and max(0.0, low, -high) > _WIDEST_GAP * max(abs(low), abs(high)):
        low, high = low - _MARGIN * span, high + _MARGIN * span
        base = cut = low if low > 0 else high
    else:
        low, high = min(low, 0.0), max(high, 0.0)
    scale = 100 / (high - low) if high > low else 0.0

    def bar(label: str, amount: Decimal | float, begin: float, end: float, total: bool) -> WaterfallStep:
        left, width = (min(begin, end) - low) * scale, abs(end - begin) * scale
        return WaterfallStep(label, amount, round(left, 2), round(width, 2), total)

    steps = [bar(*first, base, float(first[1]), True)]
    steps += [bar(*part, levels[at], levels[at + 1], False) for at, part in enumerate(parts)]
    return Waterfall([*steps, bar(*last, base, float(last[1]), True)], cut)
