"""Trading the wire: act on actionable signals."""

from __future__ import annotations

from pydantic import Field

from agent.core.durations import Duration
from agent.core.strategy import BUY, Kline, Market, Signal, Strategy, StrategyParams


class SentimentStrategy(Strategy):
    """Enters on a BUY of enough confidence; leaves on a SELL, when the signal fades, or when `hold` is over.

    With `allow_short` a SELL enters too, on the other side. A signal for the side that is already held prolongs `hold`.
    """

    class Params(StrategyParams):
        """Fractions: of equity for the size, of the price at decision for stop and take-profit."""

        position_size: float = Field(0.1, gt=0)
        confidence_threshold: float = Field(0.7, gt=0, le=1)
        stop: float | None = Field(None, gt=0, lt=1)  # distance of the protective stop
        take_profit: float | None = Field(None, gt=0)
        hold: Duration | None = Field(None, gt=0)  # longest time in the market since the last signal
        allow_short: bool = False
        exit_on_fade: bool = True

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self._until: dict[str, int] = {}

    def on_signal(self, signal: Signal, market: Market) -> None:
        """Enter, prolong or leave; signals that are not actionable are no reason to trade."""
        params, symbol = self.params, signal.symbol
        if not signal.actionable or signal.confidence < params.confidence_threshold:
            return
        side = 1 if signal.direction is BUY else -1
        if side < 0 and not params.allow_short:
            self._leave(symbol, "bearish signal")
            return
        if params.hold:
            self._until[symbol] = market.now + params.hold
        if market.position(symbol) * side > 0:
            return
        self.target(
            symbol,
            weight=side * params.position_size,
            stop=-side * params.stop if params.stop else None,
            take_profit=side * params.take_profit if params.take_profit else None,
            reason="bullish signal" if side > 0 else "bearish signal",
        )

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        """The headlines no longer carry the position."""
        if self.params.exit_on_fade:
            self._leave(signal.symbol, "signal faded")

    def on_kline(self, kline: Kline, market: Market) -> None:
        """Leave when the time is over."""
        if self._until and market.now >= self._until.get(kline.symbol, market.now + 1):
            self._leave(kline.symbol, "held long enough")

    def _leave(self, symbol: str, reason: str) -> None:
        self._until.pop(symbol, None)
        self.target(symbol, weight=0.0, reason=reason)
