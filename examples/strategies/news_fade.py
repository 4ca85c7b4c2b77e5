"""Fade news: sell what has jumped on a bullish headline unless the hourly trend is up, buy the reverse."""

from pydantic import Field

from tapewire import BUY, Kline, Market, Signal, Strategy, StrategyParams

MINUTE_MS = 60_000


class Params(StrategyParams):
    jump: float = Field(0.001, ge=0, le=0.05)  # move over 5 bars in the direction of the news
    hours: int = Field(6, ge=1, le=200)  # of the trend filter
    weight: float = Field(0.3, gt=0, le=1)  # fraction of equity, in each symbol
    stop: float = Field(0.01, gt=0, lt=0.2)
    minutes: int = Field(60, ge=5, le=2_880)  # after which the trade ends


class NewsFade(Strategy[Params]):
    """Takes the other side of a move on news for some time, but not against the price's hourly mean."""

    intervals = ("1h",)

    def on_signal(self, signal: Signal, market: Market) -> None:
        symbol, params = signal.symbol, self.params
        hours = market.bars(symbol, "1h", params.hours)
        if not signal.actionable or len(hours) < params.hours:
            return
        side = 1 if signal.direction is BUY else -1
        jump = side * market.features(symbol).return_5
        trend = side * (market.price(symbol) / hours.close.mean() - 1)
        if jump >= params.jump and trend <= 0:
            weight, stop = -side * params.weight, side * params.stop
            self.target(symbol, weight=weight, stop=stop, reason=f"fades: {signal.kind or 'news'}")

    def on_kline(self, kline: Kline, market: Market) -> None:
        if market.position(kline.symbol).age >= self.params.minutes * MINUTE_MS:
            self.target(kline.symbol, weight=0, reason="held long enough")
