"""The lines that a strategy plots, thinned, and drawn in the price charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.analysis.report.plot import Line, Pane, line
from agent.analysis.report.report_data import Curve
from agent.analysis.thinning import ThinnedCurve
from agent.core.events import Plot

LINES: Final = 8
"""Lines drawn for each symbol: the first ones."""

_COLOURS: Final = ("--warn", "--accent", "--gain", "--loss", "--muted")
_SHARE: Final = 0.3  # of the height of the prices' pane


class PlottedLines:
    """Collects plotted values by symbol and name, each line thinned to about 4,000 points."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, ThinnedCurve]] = {}
        self._left_out: set[tuple[str, str]] = set()

    def add(self, value: Plot) -> None:
        """Add a value; values come in order of time."""
        lines = self._lines.setdefault(value.symbol, {})
        if value.name not in lines and len(lines) == LINES:
            self._left_out.add((value.symbol, value.name))
            return
        curve = lines.setdefault(value.name, ThinnedCurve())
        curve.extend(np.array([value.ts]), np.array([value.value]))

    def curves(self) -> dict[str, dict[str, Curve]]:
        """Return the lines by symbol and name; those of no symbol have the symbol ""."""
        return {
            symbol: {name: Curve(*curve.points()) for name, curve in lines.items()}
            for symbol, lines in self._lines.items()
        }

    def notes(self) -> list[str]:
        """Return a note on the lines that aren't drawn."""
        if not self._left_out:
            return []
        names = ", ".join(sorted({name for _, name in self._left_out})[:LINES])
        return [f"Of the lines that the strategy plots, {LINES} a symbol are drawn; left out are {names}."]


def pane_lines(lines: dict[str, Curve], prices: Curve) -> list[Pane]:
    """Return the panes of a chart of `prices` with `lines`, the pane of the prices first.

    A line within the prices' range, widened by half of it, is drawn over them. Each other line has a pane of
    its own below.
    """
    over, below = list[Line](), list[Pane]()
    for number, (name, curve) in enumerate(lines.items()):
        drawn = line(curve, name, _COLOURS[number % len(_COLOURS)])
        if _is_near(curve.values, prices.values):
            over.append(drawn)
        else:
            below.append(Pane([drawn], title=name, share=_SHARE))
    return [Pane(over, "amount"), *below]


def _is_near(values: Sequence[float], prices: Sequence[float]) -> bool:
    low, high = min(prices, default=0.0), max(prices, default=0.0)
    slack = (high - low) / 2
    return min(values) >= low - slack and max(values) <= high + slack
