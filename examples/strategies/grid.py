"""A grid: the lower the price lies in its range, the larger the position, in equal steps."""

from math import ceil, floor

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    hours: int = Field(12, ge=2, le=500)  # whose extremes are the range
    levels: int = Field(6, ge=2, le=30)
    weight: float = Field(0.48, gt=0, le=1)  # fraction of equity at the lowest level, in each symbol


class Grid(Strategy[Params]):
    """Buys a step each time the price has fallen by a level, and sells one each time it has risen by one."""

    intervals = ("5m", "1h")

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params = bar.symbol, self.params
        hours = market.bars(symbol, "1h", params.hours)
        if bar.interval != "5m" or len(hours) < params.hours:
            return
        top, bottom = hours.high.max(), hours.low.min()
        if top <= bottom:
            return
        step = params.weight / params.levels
        depth = min(max((top - bar.close) / (top - bottom), 0.0), 1.0)  # 0 at the top, 1 at the bottom
        level, held = depth * params.levels, market.weight(symbol) / step
        # The price must cross a whole level, so that one on a line doesn't trade to and fro
        if level >= held + 1:
            self.target(symbol, weight=step * floor(level), reason=f"down to level {floor(level)}")
        elif level <= held - 1:
            self.target(symbol, weight=step * ceil(level), reason=f"up to level {ceil(level)}")
