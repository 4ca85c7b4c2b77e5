"""Breakout of a Donchian channel, sized so that its stop costs a fixed part of the equity."""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    entry: int = Field(20, ge=5, le=500)  # hours of the channel that is broken
    exit: int = Field(10, ge=2, le=250)  # hours of the channel that ends the trade, and has the stop
    risk: float = Field(0.005, gt=0, le=0.05)  # fraction of equity lost at the stop


class DonchianBreakout(Strategy[Params]):
    """Buys above the highest high of `entry` hours, sells short below the lowest low, and exits likewise."""

    intervals = ("1h",)

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        bars = market.bars(symbol, "1h", params.entry + 1)
        if len(bars) <= params.entry:
            return
        high, low = bars.high[:-1], bars.low[:-1]  # before this bar
        exit_high, exit_low = high[-params.exit :].max(), low[-params.exit :].min()
        self.plot("channel's high", high.max())
        self.plot("channel's low", low.min())
        if held > 0 and bar.close < exit_low:
            self.target(symbol, weight=0, reason="below the exit channel")
        elif held < 0 and bar.close > exit_high:
            self.target(symbol, weight=0, reason="above the exit channel")
        elif not held and bar.close > high.max():
            self.target(symbol, risk=params.risk, stop=exit_low / bar.close - 1, reason="breakout up")
        elif not held and bar.close < low.min():
            self.target(symbol, risk=params.risk, stop=exit_high / bar.close - 1, reason="breakout down")
