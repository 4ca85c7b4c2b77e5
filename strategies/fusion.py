"""Trading what the fusion model expects, where it expects more than trading costs."""

from __future__ import annotations

from pydantic import Field

from agent.core.durations import Duration
from agent.core.strategy import Kline, Market, Prediction, Strategy, StrategyParams


class FusionStrategy(Strategy):
    """Takes the side of the expected return (up - down) · move once that exceeds `margin` round trips' costs.

    The size is inverse to the expected move, so that a usual one against the position costs `risk` of equity. It leaves when the
    model expects a move against it, or when `hold` is over without it having said anything stronger; then it rests for `cool_down`.
    """

    class Params(StrategyParams):
        """Fractions: of equity for risk and size, of the price for costs, of the expected move for stop and take-profit."""

        risk: float = Field(0.005, gt=0)
        max_weight: float = Field(0.5, gt=0)
        round_trip: float = Field(0.0013, ge=0)  # twice the taker fee, half the spread and the slippage
        margin: float = Field(1.0, ge=0)
        hold: Duration = Field(14_400_000, gt=0)  # the model's horizon
        cool_down: Duration = Field(3_600_000, ge=0)
        stop: float | None = Field(None, gt=0)
        take_profit: float | None = Field(None, gt=0)
        allow_short: bool = True

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self._until: dict[str, int] = {}
        self._rested: dict[str, int] = {}

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        """Enter, prolong or leave."""
        params, symbol, move = self.params, prediction.symbol, prediction.move
        edge = (prediction.up - prediction.down) * move
        held = market.position(symbol)
        if abs(edge) <= params.margin * params.round_trip or (edge < 0 and not params.allow_short):
            if held * edge < 0:
                self._leave(symbol, market, "expects a move against the position")
            return
        if held * edge <= 0 and market.now < self._rested.get(symbol, 0):
            return
        self._until[symbol] = market.now + params.hold
        if held * edge > 0:
            return
        side = 1 if edge > 0 else -1
        self.target(
            symbol,
            weight=side * min(params.risk / move, params.max_weight),
            stop=-side * min(params.stop * move, 0.99) if params.stop else None,
            take_profit=side * min(params.take_profit * move, 0.99) if params.take_profit else None,
            reason=f"expects {edge:+.2%}",
        )

    def on_kline(self, kline: Kline, market: Market) -> None:
        """Leave when the time is over."""
        if (
            self._until
            and market.now >= self._until.get(kline.symbol, market.now + 1)
            and market.position(kline.symbol)
        ):
            self._leave(kline.symbol, market, "held long enough")

    def _leave(self, symbol: str, market: Market, reason: str) -> None:
        self._until.pop(symbol, None)
        self._rested[symbol] = market.now + self.params.cool_down
        self.target(symbol, weight=0.0, reason=reason)
