"""Dollar-cost averaging with extra buys in dips: a fixed part of the capital at fixed times."""

from pydantic import Field

from agent.core.durations import Duration
from tapewire import Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    every: Duration = Field(4 * 3_600_000, ge=60_000, le=30 * 86_400_000)  # between two buys
    part: float = Field(0.02, gt=0, le=0.5)  # of equity, for each buy
    dip: float = Field(0.01, gt=0, lt=0.5)  # fall over 20 bars that doubles the buy
    most: float = Field(0.45, gt=0, le=1)  # fraction of equity, in each symbol


class Dca(Strategy[Params]):
    """Adds `part` of equity every `every`, twice as much in a dip, up to `most`; it never sells."""

    def on_start(self, market: Market) -> None:
        self.next: dict[str, int] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params = kline.symbol, self.params
        if market.now < self.next.get(symbol, 0):
            return
        self.next[symbol] = market.now - market.now % params.every + params.every
        dip = market.features(symbol).return_20 < -params.dip
        weight = market.weight(symbol) + params.part * (2 if dip else 1)
        if weight <= params.most:
            self.target(symbol, weight=weight, reason="dip" if dip else "due")
