"""Dual Thrust: a breakout of the range of the last bars, measured from where the session opened.

The idea is Michael Chalek's, as in `DUAL_THRUST` of Jesse's example strategies.
"""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(21, ge=3, le=200)  # bars of the range
    up: float = Field(0.7, ge=0.1, le=3)  # fractions of the range
    down: float = Field(0.7, ge=0.1, le=3)
    risk: float = Field(0.002, gt=0, le=0.05)  # fraction of equity lost at the stop
    stop: float = Field(2, ge=0.1, le=10)  # distance of the stop, in average true ranges


class DualThrust(Strategy[Params]):
    """Long above the session's opening price plus the range, short below it minus the range."""

    intervals = ("15m", "4h")

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        bars, session = market.bars(symbol, "15m", params.length), market.bars(symbol, "4h", 1)
        if bar.interval != "15m" or len(bars) < params.length or not len(session):
            return
        reach = max(bars.close.max() - bars.low.min(), bars.high.max() - bars.close.min())
        above = session.close[-1] + params.up * reach  # the last session's close is where this one opened
        below = session.close[-1] - params.down * reach
        distance = params.stop * self.ta.ATR(symbol, "15m", timeperiod=14) / bar.close
        self.plot("above", above)
        self.plot("below", below)
        if bar.close > above and held <= 0 and 0 < distance < 1:
            self.target(symbol, risk=params.risk, stop=-distance, reason="above the range")
        elif bar.close < below and held >= 0 and 0 < distance < 1:
            self.target(symbol, risk=params.risk, stop=distance, reason="below the range")
