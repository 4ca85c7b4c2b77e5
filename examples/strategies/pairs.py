"""Pair trade of two symbols: short the one that has run ahead, long the other, until they meet again."""

from collections import deque
from math import log
from statistics import fmean, pstdev

from pydantic import Field

from tapewire import Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(240, ge=20, le=10_000)  # bars of the mean and the deviation
    enter: float = Field(2.0, ge=0.5, le=5)  # deviations
    leave: float = Field(0.5, ge=0, le=2)
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, of each leg


class Pairs(Strategy[Params]):
    """Trades the logarithm of the price ratio of the first two symbols around its mean."""

    def on_start(self, market: Market) -> None:
        self.ratios = deque[float](maxlen=self.params.length)
        self.close: dict[str, tuple[int, float]] = {}
        self.side = 0  # of the first symbol

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.close[kline.symbol] = kline.ts, kline.close
        one, other = market.symbols[:2]
        if len(self.close) < 2 or self.close[one][0] != self.close[other][0]:
            return  # the bar of the other symbol is still to come
        ratio = log(self.close[one][1] / self.close[other][1])
        self.ratios.append(ratio)
        params = self.params
        if len(self.ratios) < params.length or not (deviation := pstdev(self.ratios)):
            return
        score = (ratio - fmean(self.ratios)) / deviation
        if not self.side and abs(score) > params.enter:
            self.side = -1 if score > 0 else 1
        elif self.side and score * -self.side < params.leave:
            self.side = 0
        else:
            return
        for symbol, sign in ((one, self.side), (other, -self.side)):
            self.target(symbol, weight=sign * params.weight, reason=f"ratio at {score:+.1f} deviations")
