"""SuperTrend: a band of average true ranges that follows the price and flips when it is crossed.

A favourite of freqtrade's strategy collection, here with one band instead of three.
"""

from pydantic import Field

from tapewire import Kline, Market, Strategy, StrategyParams


class Params(StrategyParams):
    multiple: float = Field(8, ge=1, le=40)  # distance of the band, in average true ranges of a bar
    weight: float = Field(0.4, gt=0, le=1)  # fraction of equity, in each symbol
    allow_short: bool = True


class SuperTrend(Strategy[Params]):
    """Long above the band, short (or flat) below it."""

    def on_start(self, market: Market) -> None:
        self.band: dict[str, tuple[int, float]] = {}  # side of the trend, price of the band

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, close = kline.symbol, kline.close
        distance = self.params.multiple * market.features(symbol).atr_ratio * close
        if not distance > 0:
            self.band.pop(symbol, None)  # NaN before the features are warm, and after a gap
            return
        middle = (kline.high + kline.low) / 2
        side, band = self.band.get(symbol, (0, middle))
        crossed = side == 0 or (close - band) * side < 0
        if crossed:
            side = -side or 1
            band = middle - side * distance
            short = -self.params.weight if self.params.allow_short else 0.0
            self.target(symbol, weight=self.params.weight if side > 0 else short, reason="band crossed")
        elif side > 0:
            band = max(band, middle - distance)
        else:
            band = min(band, middle + distance)
        self.band[symbol] = side, band
