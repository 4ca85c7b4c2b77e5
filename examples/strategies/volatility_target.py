"""Hold what a target volatility allows: smaller when the market is wild, larger when it is quiet."""

from math import sqrt

from pydantic import Field

from agent.core.durations import Duration
from tapewire import Kline, Market, Strategy, StrategyParams

YEAR_MS = 365 * 86_400_000


class Params(StrategyParams):
    volatility: float = Field(0.3, ge=0.05, le=2)  # of the account, a year
    most: float = Field(0.5, gt=0, le=2)  # fraction of equity, in each symbol
    every: Duration = Field(3_600_000, ge=60_000, le=86_400_000)  # between two adjustments


class VolatilityTarget(Strategy[Params]):
    """Long only, with the weight target / (current volatility · number of symbols)."""

    def on_start(self, market: Market) -> None:
        self.estimate: dict[str, float] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params = kline.symbol, self.params
        now = market.features(symbol).volatility
        if now > 0:
            before = self.estimate.get(symbol, now)
            self.estimate[symbol] = before + (now - before) / 100
        if kline.ts % params.every or symbol not in self.estimate:
            return
        yearly = self.estimate[symbol] * sqrt(YEAR_MS / kline.interval)
        weight = min(params.volatility / (yearly * len(market.symbols)), params.most)
        self.target(symbol, weight=weight, reason=f"volatility {yearly:.0%}")
