"""Mean reversion by RSI: buy what has fallen, and trail the stop while the price recovers."""

from pydantic import Field

from tapewire import Fill, Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    buy_below: float = Field(25, ge=5, le=45)  # RSI over 14 bars
    sell_above: float = Field(60, ge=50, le=95)
    weight: float = Field(0.3, gt=0, le=1)  # fraction of equity, in each symbol
    trail: float = Field(0.006, gt=0, lt=0.2)  # distance of the stop from the highest close


class RsiReversion(Strategy[Params]):
    """Buys below `buy_below`, sells above `sell_above`; the stop follows the highest close."""

    def on_start(self, market: Market) -> None:
        self.highest: dict[str, float] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params = kline.symbol, self.params
        rsi = market.features(symbol).rsi  # NaN until it is warm: the comparisons are then false
        if not market.position(symbol):
            if rsi < params.buy_below:
                self.highest[symbol] = kline.close
                self.target(symbol, weight=params.weight, stop=-params.trail, reason=f"RSI {rsi:.0f}")
        elif rsi > params.sell_above:
            self.target(symbol, weight=0, reason=f"RSI {rsi:.0f}")
        elif kline.close > self.highest.get(symbol, 0.0):
            # The same weight again moves the stop; only a new high does so, so the stop never falls
            self.highest[symbol] = kline.close
            self.target(symbol, weight=market.weight(symbol), stop=-params.trail, reason="trail")

    def on_fill(self, fill: Fill, market: Market) -> None:
        if not market.position(fill.symbol):
            self.highest.pop(fill.symbol, None)
