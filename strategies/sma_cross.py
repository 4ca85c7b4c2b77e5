"""Crossover of two simple moving averages of the close."""

from __future__ import annotations

from math import isnan

from pydantic import Field, model_validator

from agent.core.rolling_mean import MeanCross, RollingMean
from agent.core.strategy import Kline, Market, Strategy, StrategyParams

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

    def __init__(self, params: SmaCrossParams | None = None) -> None:
        super().__init__(params)
        self._means: dict[str, MeanCross] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol = kline.symbol
        means = self._means.get(symbol)
        # If bars are missing, the features are NaN only if the engine considers that a gap
        if means is None or (kline.start != means.next_start and isnan(market.features(symbol).return_1)):
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
