"""Hold what a target volatility allows: smaller when the market is wild, larger when it is quiet."""

from math import sqrt

import numpy as np
from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams

HOURS_A_YEAR = 24 * 365


class Params(StrategyParams):
    volatility: float = Field(0.3, ge=0.05, le=2)  # of the account, a year
    hours: int = Field(12, ge=6, le=1_000)  # of the estimate
    most: float = Field(0.5, gt=0, le=2)  # fraction of equity, in each symbol


class VolatilityTarget(Strategy[Params]):
    """Long only, with the weight target / (current volatility · number of symbols), adjusted every hour."""

    intervals = ("1h",)

    def on_bar(self, bar: Bar, market: Market) -> None:
        close = market.bars(bar.symbol, "1h", self.params.hours + 1).close
        if len(close) <= self.params.hours:
            return
        yearly = np.diff(np.log(close)).std() * sqrt(HOURS_A_YEAR)
        self.plot("volatility", yearly)
        if yearly > 0:
            weight = min(self.params.volatility / (yearly * len(market.symbols)), self.params.most)
            self.target(bar.symbol, weight=weight, reason=f"volatility {yearly:.0%}")
