"""Trades actionable signals from news sentiment."""

from __future__ import annotations

from pydantic import Field

from agent.core.durations import Duration
from agent.core.strategy import BUY, Kline, Market, Signal, Strategy, StrategyParams, TimeInForce


class SentimentParams(StrategyParams):
    """Parameters of `SentimentStrategy`."""

    position_size: float = Field(0.1, gt=0)  # fraction of equity
    confidence_threshold: float = Field(0.7, gt=0, le=1)
    stop: float | None = Field(None, gt=0, lt=1)  # distance, as a fraction of the price
    take_profit: float | None = Field(None, gt=0)  # likewise
    hold: Duration | None = Field(None, gt=0)  # exit after this time without a signal for the held side
    allow_short: bool = False
    exit_on_fade: bool = True  # exit when the signal expires
    limit_offset: float | None = Field(None, gt=0, lt=0.1)  # enter by post-only limit, this fraction away


class SentimentStrategy(Strategy[SentimentParams]):
    """Enters on a BUY of sufficient confidence; exits on a SELL, when the signal expires, or after `hold`.

    With `allow_short`, a SELL opens a short position. A signal for the side that is already held restarts
    `hold`. With `limit_offset`, an entry rests in the book as a post-only limit order below the last price
    (above it for a short), and stays unfilled if the price doesn't come back; exits are market orders.
    """

    reads_features = False

    def __init__(self, params: SentimentParams | None = None) -> None:
        super().__init__(params)
        self._hold_until: dict[str, int] = {}

    def wants(self, method: str) -> bool:
        return super().wants(method) and (method != "on_kline" or self.params.hold is not None)

    def on_signal(self, signal: Signal, market: Market) -> None:
        params, symbol = self.params, signal.symbol
        if not signal.actionable or signal.confidence < params.confidence_threshold:
            return
        side = 1 if signal.direction is BUY else -1
        if side < 0 and not params.allow_short:
            self._exit(symbol, "bearish signal")
            return
        if params.hold:
            self._hold_until[symbol] = market.now + params.hold
        if market.position(symbol) * side > 0:
            return
        self.target(
            symbol,
            weight=side * params.position_size,
            limit=resting_price(market.price(symbol), side, params.limit_offset),
            stop=-side * params.stop if params.stop else None,
            take_profit=side * params.take_profit if params.take_profit else None,
            tif=TimeInForce.POST_ONLY if params.limit_offset else TimeInForce.GTC,
            reason="bullish signal" if side > 0 else "bearish signal",
        )

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        if self.params.exit_on_fade:
            self._exit(signal.symbol, "signal faded")

    def on_kline(self, kline: Kline, market: Market) -> None:
        if market.now >= self._hold_until.get(kline.symbol, market.now + 1):
            self._exit(kline.symbol, "held long enough")

    def _exit(self, symbol: str, reason: str) -> None:
        self._hold_until.pop(symbol, None)
        self.target(symbol, weight=0.0, reason=reason)


def resting_price(price: float, side: int, offset: float | None) -> float | None:
    """Return the limit of an entry on `side` (1 buys, -1 sells), the fraction `offset` away from `price`.

    Returns None, for a market order, without an offset, and before the first price (NaN).
    """
    return price * (1 - side * offset) if offset and price > 0 else None
