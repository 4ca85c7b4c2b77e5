"""Trades the fusion model's predictions if the expected return exceeds the costs."""

from __future__ import annotations

from pydantic import Field

from agent.core.durations import Duration
from agent.core.strategy import Kline, Market, Prediction, Strategy, StrategyParams, TimeInForce
from strategies.sentiment import resting_price


class FusionParams(StrategyParams):
    """Parameters of `FusionStrategy`."""

    risk: float = Field(0.005, gt=0)  # fraction of equity that an average move against the position costs
    max_weight: float = Field(0.5, gt=0)  # fraction of equity
    round_trip: float = Field(0.0013, ge=0)  # fraction of the price: twice fee, half spread, slippage
    margin: float = Field(1.0, ge=0)  # least expected return, in round trips
    hold: Duration = Field(14_400_000, gt=0)  # exit after this time; the model's horizon
    cool_down: Duration = Field(3_600_000, ge=0)  # no entry for this time after an exit
    stop: float | None = Field(None, gt=0)  # distance, as a fraction of the expected move
    take_profit: float | None = Field(None, gt=0)  # likewise
    allow_short: bool = True
    limit_offset: float | None = Field(None, gt=0, lt=0.1)  # enter by post-only limit, this fraction away


class FusionStrategy(Strategy[FusionParams]):
    """Enters in the direction of the expected return (up - down) · move if that exceeds `margin` round trips'
    costs.

    The size is inverse to the expected move, so that an average move against the position costs `risk` of
    equity. It exits if the model expects a move against the position, or after `hold` without another
    prediction that exceeds the costs. After an exit it does not enter for `cool_down`. With `limit_offset`,
    an entry rests in the book as a post-only limit order and may stay unfilled; exits are market orders.
    """

    def __init__(self, params: FusionParams | None = None) -> None:
        super().__init__(params)
        self._hold_until: dict[str, int] = {}
        self._cool_until: dict[str, int] = {}

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        params, symbol, move = self.params, prediction.symbol, prediction.move
        edge = (prediction.up - prediction.down) * move
        held = market.position(symbol)
        if abs(edge) <= params.margin * params.round_trip or (edge < 0 and not params.allow_short):
            if held * edge < 0:
                self._exit(symbol, market, "expects a move against the position")
            return
        if held * edge <= 0 and market.now < self._cool_until.get(symbol, 0):
            return
        self._hold_until[symbol] = market.now + params.hold
        if held * edge > 0:
            return
        side = 1 if edge > 0 else -1
        self.target(
            symbol,
            weight=side * min(params.risk / move, params.max_weight),
            limit=resting_price(market.price(symbol), side, params.limit_offset),
            stop=-side * min(params.stop * move, 0.99) if params.stop else None,
            take_profit=side * min(params.take_profit * move, 0.99) if params.take_profit else None,
            tif=TimeInForce.POST_ONLY if params.limit_offset else TimeInForce.GTC,
            reason=f"expects {edge:+.2%}",
        )

    def on_kline(self, kline: Kline, market: Market) -> None:
        overdue = market.now >= self._hold_until.get(kline.symbol, market.now + 1)
        # An entry that rests in the book is withdrawn, although no position is open yet
        if overdue and (market.position(kline.symbol) or self.params.limit_offset):
            self._exit(kline.symbol, market, "held long enough")

    def _exit(self, symbol: str, market: Market, reason: str) -> None:
        self._hold_until.pop(symbol, None)
        self._cool_until[symbol] = market.now + self.params.cool_down
        self.target(symbol, weight=0.0, reason=reason)
