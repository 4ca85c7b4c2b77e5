"""Bollinger squeeze: when the bands are narrow, wait with an order at one of them, and leave in two steps."""

from pydantic import Field

from tapewire import Bar, Market, Strategy, StrategyParams


class Params(StrategyParams):
    length: int = Field(20, ge=5, le=200)  # bars of the bands
    memory: int = Field(40, ge=10, le=500)  # bars among which the bands must be the narrowest
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, in each symbol
    profit: float = Field(
        0.008, gt=0, lt=0.5
    )  # takes half of the position here, and half at double the distance


class Squeeze(Strategy[Params]):
    """Buys at the upper band above the mean of six hours, and sells short at the lower band below it."""

    intervals = ("15m", "1h")

    def on_bar(self, bar: Bar, market: Market) -> None:
        symbol, params = bar.symbol, self.params
        bands = self.ta.BBANDS(symbol, "15m", timeperiod=params.length, history=params.memory)
        width = bands.upperband - bands.lowerband  # NaN until all of them are there
        mean = self.ta.SMA(symbol, "1h", timeperiod=6)
        if (
            mean != mean
            or bar.interval != "15m"
            or market.position(symbol)
            or not 0 < width[-1] <= width.min()
        ):
            return
        side = 1 if bar.close > mean else -1
        band = bands.upperband[-1] if side > 0 else bands.lowerband[-1]
        steps = [(side * params.profit, 0.5), (side * params.profit * 2, 0.5)]
        self.target(
            symbol,
            weight=side * params.weight,
            stop_entry=band,
            expire="2h",
            stop=bands.middleband[-1] / band - 1,
            take_profit=steps,
            reason="squeeze",
        )
