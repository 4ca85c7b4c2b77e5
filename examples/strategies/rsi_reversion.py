"""Mean reversion by RSI: buy what has fallen, and let a trailing stop follow the recovery."""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(14, ge=2, le=50)  # bars of the RSI
    buy_below: float = Field(30, ge=5, le=45)
    sell_above: float = Field(70, ge=50, le=95)
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, in each symbol
    trail: float = Field(0.01, gt=0, lt=0.2)  # distance of the stop from the best price since the entry


class RsiReversion(Strategy[Params]):
    """Buys when the RSI rises above `buy_below`, tightens the trail above 50, sells above `sell_above`."""

    intervals = ("5m",)

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params, held = bar.symbol, self.params, market.position(bar.symbol)
        before, rsi = self.ta.RSI(symbol, "5m", timeperiod=params.length, history=2)
        self.plot("rsi", rsi)
        if not held and before < params.buy_below <= rsi:
            self.target(symbol, weight=params.weight, trail=-params.trail, reason=f"RSI {rsi:.0f}")
        elif held and rsi > params.sell_above:
            self.target(symbol, weight=0, reason=f"RSI {rsi:.0f}")
        elif held and rsi > 50 >= before:
            # The same quantity trades nothing, but moves the protection; a looser trail would be ignored
            self.target(symbol, qty=held.qty, trail=-params.trail / 2, reason="half the trail")
