"""Fade news: sell what has jumped on a bullish headline unless the hourly trend is up, buy the reverse."""

from pydantic import Field

from agent.core.durations import Duration
from tapewire import BUY, Kline, Market, Signal, Strategy, StrategyParams

HOUR_MS = 3_600_000


class Params(StrategyParams):
    jump: float = Field(0.001, ge=0, le=0.05)  # move over 5 bars in the direction of the news
    hours: int = Field(4, ge=1, le=48)  # of the trend filter
    weight: float = Field(0.3, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.01, gt=0, lt=0.2)
    hold: Duration = Field(HOUR_MS, ge=60_000, le=2 * 86_400_000)


class NewsFade(Strategy[Params]):
    """Takes the other side of a move on news, not against the trend, for `hold`."""

    def on_start(self, market: Market) -> None:
        self.hourly: dict[str, list[float]] = {symbol: [] for symbol in market.symbols}
        self.until: dict[str, int] = {}

    def on_signal(self, signal: Signal, market: Market) -> None:
        symbol, params, hourly = signal.symbol, self.params, self.hourly[signal.symbol]
        if not signal.actionable or len(hourly) <= params.hours:
            return
        side = 1 if signal.direction is BUY else -1
        trend = market.price(symbol) / hourly[0] - 1
        if side * market.features(symbol).return_5 >= params.jump and side * trend <= 0:
            self.until[symbol] = market.now + params.hold
            self.target(
                symbol, weight=-side * params.weight, stop=side * params.stop, reason="fades the news"
            )

    def on_kline(self, kline: Kline, market: Market) -> None:
        symbol = kline.symbol
        if kline.ts % HOUR_MS == 0:
            self.hourly[symbol] = [*self.hourly[symbol], kline.close][-self.params.hours - 1 :]
        if market.now >= self.until.get(symbol, market.now + 1):
            del self.until[symbol]
            self.target(symbol, weight=0, reason="held long enough")
