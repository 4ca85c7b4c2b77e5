"""A grid: the lower the price lies in its range, the larger the position, in equal steps."""

from collections import deque

from pydantic import Field

from tapewire import Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(720, ge=20, le=20_000)  # bars whose extremes are the range
    levels: int = Field(6, ge=2, le=30)
    weight: float = Field(0.48, gt=0, le=1)  # fraction of equity at the lowest level, in each symbol


class Grid(Strategy[Params]):
    """Holds a share of `weight` that grows by one level with each step down, and shrinks on the way up."""

    def on_start(self, market: Market) -> None:
        self.bars = {s: deque[tuple[float, float]](maxlen=self.params.length) for s in market.symbols}
        self.level: dict[str, int] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params, bars = kline.symbol, self.params, self.bars[kline.symbol]
        bars.append((kline.high, kline.low))
        if len(bars) < params.length:
            return
        highest, lowest = max(high for high, _ in bars), min(low for _, low in bars)
        if highest <= lowest:
            return
        depth = (highest - kline.close) / (highest - lowest)  # 0 at the top, 1 at the bottom
        level = min(int(depth * params.levels), params.levels - 1)
        before = self.level.get(symbol, 0)
        # Half a level of slack, so that a price on a line doesn't trade to and fro
        if level == before or abs(depth * params.levels - before - 0.5) < 1:
            return
        self.level[symbol] = level
        share = level / (params.levels - 1)
        self.target(symbol, weight=params.weight * share, reason=f"level {level}")
