"""Trend following by two simple moving averages of the close."""

from __future__ import annotations

from math import isnan

from pydantic import Field, model_validator

from agent.core.strategy import Kline, Market, Strategy, StrategyParams
from strategies.rolling import RollingMean

_ROUNDING = 1e-12
"""Averages that differ by less are equal: decimal prices are not exact in binary."""


class SmaCross(Strategy):
    """Long while the fast average is above the slow one, otherwise flat, or short where that is allowed.

    Speaks from the `slow`-th closed bar on, and starts over after a gap. Bars that a resting market never had (nights, weekends
    of equities) are no gap.
    """

    class Params(StrategyParams):
        """Lengths in bars."""

        fast: int = Field(20, ge=1)
        slow: int = Field(100, ge=2)
        weight: float = Field(0.45, gt=0)  # fraction of equity, in each symbol
        allow_short: bool = False

        @model_validator(mode="after")
        def _in_order(self) -> SmaCross.Params:
            if self.fast >= self.slow:
                raise ValueError(f"fast ({self.fast}) must be below slow ({self.slow})")
            return self

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self._trends: dict[str, _Trend] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        """Compare the averages at the close, and change sides where they have crossed."""
        symbol, params = kline.symbol, self.params
        trend = self._trends.get(symbol)
        # Where bars are missing, the engine knows whether that is a gap: then its features start over too
        if trend is None or (kline.start != trend.next_start and isnan(market.features(symbol).return_1)):
            trend = self._trends[symbol] = _Trend(params.fast, params.slow)
        trend.next_start = kline.ts
        fast = trend.fast.push(kline.close)
        slow = trend.slow.push(kline.close)
        trend.bars += 1
        if trend.bars < params.slow:
            return
        position = market.position(symbol)
        if fast - slow > _ROUNDING * slow:
            if position <= 0:
                self.target(symbol, weight=params.weight, reason="fast average above slow")
        elif position > 0 or (params.allow_short and position == 0):
            self.target(
                symbol,
                weight=-params.weight if params.allow_short else 0.0,
                reason="fast average not above slow",
            )


class _Trend:
    __slots__ = ("bars", "fast", "next_start", "slow")

    def __init__(self, fast: int, slow: int) -> None:
        self.fast = RollingMean(fast)
        self.slow = RollingMean(slow)
        self.bars = 0
        self.next_start = 0
