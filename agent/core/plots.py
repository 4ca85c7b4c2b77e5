"""Lines that strategies plot, recorded up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from agent.core.errors import StrategyError
from agent.core.events import Plot
from agent.core.market import MarketView
from agent.core.risk import RiskManager

MOST_VALUES: Final = 100_000
"""Values recorded in a run."""


class PlotRecorder:
    """Implements `agent.core.strategy.Plotter`: passes values to `emit` and counts those beyond the limit."""

    def __init__(
        self, market: MarketView, risk: RiskManager, counts: Counter[str], emit: Callable[[Plot], None]
    ) -> None:
        self._market = market
        self._risk = risk
        self._counts = counts
        self._emit = emit
        self.recorded = 0

    def plot(self, name: str, value: float, symbol: str) -> None:
        """Record a value unless history is being read. Raises StrategyError for an unknown symbol."""
        symbol = symbol or self._market.subject
        if symbol and symbol not in self._market.symbols:
            raise StrategyError(
                f"the strategy plots {name} for {symbol}, which is not traded",
                hint=f"market.symbols are {', '.join(self._market.symbols)}",
            )
        if self._risk.warming_up:
            return
        if self.recorded >= MOST_VALUES:
            self._counts[f"plotted values beyond the first {MOST_VALUES:,}, not recorded"] += 1
            return
        self.recorded += 1
        self._emit(Plot(symbol, self._market.now, name, value))
