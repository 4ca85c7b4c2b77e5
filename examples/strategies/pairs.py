"""Pair trade of two symbols: short the one that has run ahead, long the other, until they meet again."""

import numpy as np
from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(32, ge=10, le=1_000)  # bars of the mean and the deviation
    enter: float = Field(2.0, ge=0.5, le=5)  # deviations
    leave: float = Field(0.5, ge=0, le=2)
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, of each leg


class Pairs(Strategy[Params]):
    """Trades the logarithm of the price ratio of the first two symbols around its mean."""

    intervals = ("15m",)

    def on_bar(self, bar: Bar, market: Market) -> None:
        one, other = market.symbols[:2]
        length, weight = self.params.length, self.params.weight
        ours, theirs = market.bars(one, "15m", length), market.bars(other, "15m", length)
        if len(ours) < length or not np.array_equal(ours.start, theirs.start):
            return  # too few bars, one of them is missing, or the other symbol's is still to come
        ratio = np.log(ours.close / theirs.close)
        score = (ratio[-1] - ratio.mean()) / (ratio.std() or np.inf)
        self.plot("deviations", score, symbol=one)
        held = market.position(one)
        if not held and abs(score) > self.params.enter:
            side = -np.sign(score)
        elif held and score * np.sign(held) > -self.params.leave:
            side = 0.0
        else:
            return
        for symbol, sign in ((one, side), (other, -side)):
            self.target(symbol, weight=sign * weight, reason=f"ratio at {score:+.1f} deviations")
