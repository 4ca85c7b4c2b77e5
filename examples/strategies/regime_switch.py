"""Two rules in one: follow the price where it goes somewhere, buy dips where it goes to and fro."""

import numpy as np
from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(24, ge=5, le=500)  # bars of 15 minutes
    trending: float = Field(0.3, ge=0.1, le=0.9)  # efficiency: the move divided by the way
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.02, gt=0, lt=0.2)


class RegimeSwitch(Strategy[Params]):
    """Trend: long while the price is above that of `length` bars ago. Range: long below the lower band."""

    intervals = ("15m",)

    def on_start(self, market: Market) -> None:
        self.regimes: dict[str, str] = {}

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        close = market.bars(symbol, "15m", params.length + 1).close
        way = np.abs(np.diff(close)).sum()
        if len(close) <= params.length or not way:
            return
        efficiency = abs(close[-1] - close[0]) / way
        regime = "trend" if efficiency > params.trending else "range"
        if self.regimes.get(symbol, regime) != regime:
            self.notify(f"{symbol}: {regime}")
        self.regimes[symbol] = regime
        self.plot("efficiency", efficiency)
        bands = self.ta.BBANDS(symbol, "15m", timeperiod=params.length)
        if regime == "trend":
            enter, leave = close[-1] > close[0], close[-1] < close[0]
        else:
            enter, leave = close[-1] < bands.lowerband, close[-1] > bands.middleband
        if enter and not held:
            self.target(symbol, weight=params.weight, stop=-params.stop, reason=f"{regime}: enter")
        elif leave and held:
            self.target(symbol, weight=0, reason=f"{regime}: leave")
