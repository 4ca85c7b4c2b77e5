"""Three SuperTrends that must agree, and an exit by a table of profits that shrinks with time.

The idea is that of `Supertrend` in freqtrade's strategy collection.
"""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams

HOUR_MS = 3_600_000
PROFITS = (
    (0, 0.087),
    (6, 0.058),
    (14, 0.029),
    (37, 0.001),
)  # hours, and the profit that is taken from then on


class Params(StrategyParams):
    length: int = Field(10, ge=7, le=21)  # hours of the average true range
    near: float = Field(1.5, ge=1, le=4)  # distances of the lines, in average true ranges
    middle: float = Field(3, ge=1, le=7)
    far: float = Field(4.5, ge=1, le=10)
    weight: float = Field(0.45, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.1, gt=0, lt=0.5)


class SuperTrend(Strategy[Params]):
    """Long when all three lines are below the price; leaves when all are above it, or with the profit."""

    intervals = ("1h",)

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        lines = [
            self.ta.SUPERTREND(symbol, "1h", timeperiod=params.length, multiplier=multiple).supertrend
            for multiple in (params.near, params.middle, params.far)
        ]
        self.plot("supertrend", lines[1])
        if held and all(bar.close < line for line in lines):
            self.target(symbol, weight=0, reason="below all lines")
        elif not held and all(bar.close > line for line in lines):
            self.target(symbol, weight=params.weight, stop=-params.stop, reason="above all lines")
        elif held:
            profit = [profit for hours, profit in PROFITS if held.age >= hours * HOUR_MS][-1]
            if bar.close / held.entry_price - 1 >= profit:
                self.target(symbol, weight=0, reason=f"profit above {profit:.1%}")
