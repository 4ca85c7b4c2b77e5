"""Crossover of two exponential averages of hourly closes; orders go out on the bars of the run."""

from pydantic import Field, model_validator

from tapewire import Kline, Market, Strategy, StrategyParams

HOUR_MS = 3_600_000


class Params(StrategyParams):
    fast: int = Field(12, ge=2, le=100)  # hours
    slow: int = Field(48, ge=4, le=400)  # hours
    weight: float = Field(0.45, gt=0, le=1)  # fraction of equity, in each symbol

    @model_validator(mode="after")
    def _check_order(self) -> "Params":
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be below slow ({self.slow})")
        return self


class Average:
    """An exponential average that begins with the mean of its first `length` values."""

    def __init__(self, length: int) -> None:
        self.length, self.count, self.value = length, 0, 0.0

    def push(self, value: float) -> None:
        self.count += 1
        step = 1 / self.count if self.count <= self.length else 2 / (self.length + 1)
        self.value += (value - self.value) * step


class EmaCross(Strategy[Params]):
    """Long while the fast average of hourly closes is above the slow one, else flat."""

    def on_start(self, market: Market) -> None:
        lengths = self.params.fast, self.params.slow
        self.averages = {symbol: [Average(length) for length in lengths] for symbol in market.symbols}

    def on_kline(self, kline: Kline, market: Market) -> None:
        if kline.ts % HOUR_MS:
            return  # an hour ends with the bar that closes on it
        fast, slow = self.averages[kline.symbol]
        fast.push(kline.close)
        slow.push(kline.close)
        if slow.count < slow.length:
            return
        held = market.position(kline.symbol)
        if fast.value > slow.value and not held:
            self.target(kline.symbol, weight=self.params.weight, reason="fast average above slow")
        elif fast.value < slow.value and held:
            self.target(kline.symbol, weight=0, reason="fast average below slow")
