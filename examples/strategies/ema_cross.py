"""Two hourly averages give the direction, minutes the entry: it buys the first dip of an uptrend."""

from pydantic import Field, model_validator

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    fast: int = Field(20, ge=2, le=100)  # hours
    slow: int = Field(50, ge=4, le=400)
    weight: float = Field(0.45, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.03, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _check_order(self) -> "Params":
        if self.fast >= self.slow:
            raise ValueError(f"fast ({self.fast}) must be below slow ({self.slow})")
        return self


class EmaCross(Strategy[Params]):
    """Long while the fast average is above the slow one. Enters once in an hour, below its opening price."""

    intervals = ("1m", "1h")

    def on_start(self, market: Market) -> None:
        self.below: dict[str, float] = {}  # price below which a symbol is bought in this hour

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        if bar.interval == "1m":
            if bar.close < self.below.get(symbol, 0.0):
                del self.below[symbol]
                self.target(symbol, weight=params.weight, stop=-params.stop, reason="dip in an uptrend")
            return
        fast = self.ta.EMA(symbol, "1h", timeperiod=params.fast)  # NaN until warm: comparisons are false
        slow = self.ta.EMA(symbol, "1h", timeperiod=params.slow)
        self.plot("fast", fast)
        self.plot("slow", slow)
        self.below.pop(symbol, None)
        if fast > slow and not held:
            self.below[symbol] = bar.close
        elif fast < slow and held:
            self.target(symbol, weight=0, reason="fast average below slow")
