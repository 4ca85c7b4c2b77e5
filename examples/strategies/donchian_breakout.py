"""Breakout of a Donchian channel, sized so that the stop costs a fixed part of the equity.

The idea is the Turtles' of 1983, of which Jesse and freqtrade have many versions.
"""

from collections import deque

from pydantic import Field

from tapewire import Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    entry: int = Field(240, ge=10, le=5_000)  # bars of the channel that is broken
    exit: int = Field(120, ge=5, le=5_000)  # bars of the channel that ends the trade
    risk: float = Field(0.005, gt=0, le=0.05)  # fraction of equity lost at the stop
    stop_atr: float = Field(12, gt=0, le=50)  # distance of the stop, in average true ranges of a bar


class DonchianBreakout(Strategy[Params]):
    """Buys above the highest high of `entry` bars, sells short below the lowest low, and exits likewise."""

    def on_start(self, market: Market) -> None:
        length = max(self.params.entry, self.params.exit)
        self.bars = {symbol: deque[tuple[float, float]](maxlen=length) for symbol in market.symbols}

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params, bars = kline.symbol, self.params, self.bars[kline.symbol]
        before = list(bars)
        bars.append((kline.high, kline.low))
        atr = market.features(symbol).atr_ratio
        if len(before) < params.entry or not atr > 0:
            return
        held, close = market.position(symbol), kline.close
        leave = before[-params.exit :]
        if held > 0 and close < min(low for _, low in leave):
            self.target(symbol, weight=0, reason="below the exit channel")
        elif held < 0 and close > max(high for high, _ in leave):
            self.target(symbol, weight=0, reason="above the exit channel")
        elif not held:
            channel = before[-params.entry :]
            distance = min(params.stop_atr * atr, 0.5)
            weight = min(params.risk / distance, 0.5)
            if close > max(high for high, _ in channel):
                self.target(symbol, weight=weight, stop=-distance, reason="breakout up")
            elif close < min(low for _, low in channel):
                self.target(symbol, weight=-weight, stop=distance, reason="breakout down")
