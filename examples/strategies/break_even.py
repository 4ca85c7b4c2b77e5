"""A stop in three stages: at the risk that was taken, at break-even, and at a profit that is locked in.

The idea is that of `FixedRiskRewardLoss` in freqtrade's strategy collection.
"""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams

FEES = 0.002  # of entry and exit, as a fraction of the price


class Params(StrategyParams):
    multiple: float = Field(2, ge=0.5, le=10)  # distance of the first stop, in average true ranges
    even_at: float = Field(
        1, ge=0.2, le=5
    )  # profit, in units of that distance, that moves the stop to the entry
    lock_at: float = Field(3.5, ge=1, le=20)  # profit, likewise, that becomes the stop
    risk: float = Field(0.002, gt=0, le=0.05)  # fraction of equity lost at the first stop


class BreakEven(Strategy[Params]):
    """Buys above the average of 50 bars; the stop alone ends the trade."""

    intervals = ("15m",)

    def on_start(self, market: Market) -> None:
        self.distance: dict[str, float] = {}  # between entry and first stop, as a price

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        if not held:
            distance = params.multiple * self.ta.ATR(symbol, "15m", timeperiod=14)
            if bar.close > self.ta.SMA(symbol, "15m", timeperiod=50) and 0 < distance < bar.close:
                self.distance[symbol] = distance
                self.target(symbol, risk=params.risk, stop=-distance / bar.close, reason="above average")
            return
        entry, distance = held.entry_price, self.distance[symbol]
        price = 0.0
        if bar.close >= entry + params.lock_at * distance:
            price = entry + params.lock_at * distance
        elif bar.close >= entry + params.even_at * distance:
            price = entry * (1 + FEES)
        if price < bar.close and price > (held.stop or 0.0):
            # The same quantity trades nothing, but moves the stop
            self.target(symbol, qty=held.qty, stop=price / bar.close - 1, reason="stop moves up")
