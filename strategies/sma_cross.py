"""Crossover of two simple moving averages of the close."""

from __future__ import annotations

from pydantic import Field, model_validator

from agent.core.rolling_mean import MeanCross, RollingMean
from agent.core.strategy import BarSpan, Kline, Market, Strategy, StrategyParams

__all__ = ["RollingMean", "SmaCross", "SmaCrossParams"]


class SmaCrossParams(StrategyParams):
    """Parameters of `SmaCross`; lengths are in bars."""

    fast: int = Field(20, ge=1)
    slow: int = Field(100, ge=2)
    weight: float = Field(0.45, gt=0)  # fraction of equity, in each symbol
    allow_short: bool = False

    @model_validator(mode="after")
    def _check_order(self) -> SmaCrossParams:
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be below slow ({self.slow})")
        return self


class SmaCross(Strategy[SmaCrossParams]):
    """Long while the fast average is above the slow one, otherwise flat, or short with `allow_short`.

    It trades from the `slow`-th closed bar on, and starts over after a gap. Nights and weekends of equities
    are not gaps.
    """

    reads_features = False

    def __init__(self, params: SmaCrossParams | None = None) -> None:
        super().__init__(params)
        self._means: dict[str, MeanCross] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol = kline.symbol
        means = self._means.get(symbol)
        if means is None or kline.start == market.unbroken_since(symbol) != means.next_start:
            means = self._means[symbol] = MeanCross(self.params.fast, self.params.slow)
        trend = means.push(kline.ts, kline.close)
        if not trend:
            return
        position = market.position(symbol)
        if trend > 0:
            if position <= 0:
                self.target(symbol, weight=self.params.weight, reason="fast average above slow")
        elif position > 0 or (self.params.allow_short and not position):
            self.target(
                symbol,
                weight=-self.params.weight if self.params.allow_short else 0.0,
                reason="fast average not above slow",
            )

    def quiet_bars(self, bars: BarSpan, market: Market) -> int:
        means = self._means.get(bars.symbol)
        if means is None:
            return 0
        position = market.position(bars.symbol)
        below = position > 0 or (self.params.allow_short and not position)
        return means.count_before(bars, above=position <= 0, below=below)

    def pass_over(self, bars: BarSpan) -> None:
        self._means[bars.symbol].extend(bars)
