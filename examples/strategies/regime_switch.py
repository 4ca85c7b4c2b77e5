"""Two rules in one: follow the trend in quiet markets, buy dips in wild ones, as volatility decides."""

from collections import deque
from statistics import median

from pydantic import Field

from tapewire import Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    memory: int = Field(480, ge=60, le=20_000)  # bars whose median volatility divides the regimes
    wild: float = Field(1.3, ge=1, le=5)  # times the median from which a market is wild
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.015, gt=0, lt=0.2)


class RegimeSwitch(Strategy[Params]):
    """Quiet: long above the 20-bar return of zero. Wild: long below the lower Bollinger band only."""

    def on_start(self, market: Market) -> None:
        self.volatility = {s: deque[float](maxlen=self.params.memory) for s in market.symbols}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params, seen = kline.symbol, self.params, self.volatility[kline.symbol]
        features = market.features(symbol)
        if not features.warm:
            return
        seen.append(features.volatility)
        if len(seen) < params.memory or kline.ts % (15 * 60_000):
            return  # decide four times an hour
        wild = features.volatility > params.wild * median(seen)
        long = features.bollinger < -1 if wild else features.return_20 > 0
        held, regime = market.position(symbol), "wild" if wild else "quiet"
        if long and not held:
            self.target(symbol, weight=params.weight, stop=-params.stop, reason=f"{regime}: enter")
        elif held and not long and (not wild or features.bollinger > 0):
            self.target(symbol, weight=0, reason=f"{regime}: leave")
