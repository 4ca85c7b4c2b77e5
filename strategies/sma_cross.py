"""Crossover of two simple moving averages of the close."""

from __future__ import annotations

from collections import deque
from math import isnan

from pydantic import Field, model_validator

from agent.core.strategy import Kline, Market, Strategy, StrategyParams

_ROUNDING = 1e-12
"""Relative difference up to which averages are equal: decimal prices are not exact in binary."""


class RollingMean:
    """Mean of the last `length` values, in O(1) per value; missing values count as zeros.

    The rounding error of each step is computed and carried along (TwoSum; Knuth, The Art of Computer
    Programming, vol. 2, 4.2.2), so the mean depends only on the values in the window and does not drift.
    """

    __slots__ = ("_error", "_length", "_sum", "_values")

    def __init__(self, length: int) -> None:
        self._length = length
        self._values = deque([0.0] * length, maxlen=length)
        self._sum = 0.0
        self._error = 0.0

    def push(self, value: float) -> float:
        """Add a value and return the mean of the last `length` values."""
        values, before = self._values, self._sum
        old = values[0]
        values.append(value)
        change = value - old
        part = change - value
        error = (value - (change - part)) - (old + part)
        after = self._sum = before + change
        part = after - before
        self._error += error + (before - (after - part)) + (change - part)
        return (after + self._error) / self._length


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
        self._trends: dict[str, _Trend] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params = kline.symbol, self.params
        trend = self._trends.get(symbol)
        # If bars are missing, the features are NaN only if the engine considers that a gap
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
        elif position > 0 or (params.allow_short and not position):
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
