"""Buy a dip under an average and sell at a table of profits that shrinks with time.

The idea is that of freqtrade's sample strategy: RSI for the entry, minimal_roi for the exit.
"""

from pydantic import Field

from tapewire import Fill, Kline, Market, Strategy, StrategyParams

MINUTE_MS = 60_000
ROI = ((0, 0.012), (30, 0.006), (90, 0.002), (240, 0.0))  # after so many minutes, sell at this profit


class Params(StrategyParams):
    rsi: float = Field(32, ge=5, le=50)
    band: float = Field(-0.6, ge=-3, le=0)  # Bollinger position below which a dip begins
    weight: float = Field(0.2, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.01, gt=0, lt=0.5)


class RsiDip(Strategy[Params]):
    """Enters on a low RSI under the average; leaves when the profit exceeds that of the table."""

    def on_start(self, market: Market) -> None:
        self.entry: dict[str, tuple[int, float]] = {}  # time and price of the last entry

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol, params = kline.symbol, self.params
        features = market.features(symbol)
        if not market.position(symbol):
            if features.rsi < params.rsi and features.bollinger < params.band:
                self.target(symbol, weight=params.weight, stop=-params.stop, reason="dip")
            return
        since, price = self.entry[symbol]
        minutes = (market.now - since) / MINUTE_MS
        wanted = [profit for after, profit in ROI if minutes >= after][-1]
        if kline.close / price - 1 >= wanted:
            self.target(symbol, weight=0, reason=f"{wanted:.1%} after {minutes:.0f} minutes")

    def on_fill(self, fill: Fill, market: Market) -> None:
        if market.position(fill.symbol) and fill.symbol not in self.entry:
            self.entry[fill.symbol] = fill.ts, float(fill.price)
        elif not market.position(fill.symbol):
            self.entry.pop(fill.symbol, None)
