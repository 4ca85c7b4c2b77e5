"""Buy and hold: the benchmark for other strategies."""

from __future__ import annotations

from pydantic import Field

from agent.core.events import RiskState, Side
from agent.core.strategy import BarSpan, Fill, Kline, Market, Strategy, StrategyParams


class BuyAndHoldParams(StrategyParams):
    """The equity beyond `weight` pays for fees and slippage."""

    weight: float = Field(0.98, gt=0)  # fraction of equity, over all symbols


class BuyAndHold(Strategy[BuyAndHoldParams]):
    """Buys every symbol at its first bar, each for an equal part of the equity, and holds it."""

    reads_features = False

    def __init__(self, params: BuyAndHoldParams | None = None) -> None:
        super().__init__(params)
        self._bought: set[str] = set()

    def on_kline(self, kline: Kline, market: Market) -> None:
        # Repeat the target until an order fills, because risk may refuse it
        if kline.symbol not in self._bought and market.risk_state is RiskState.ACTIVE:
            self.target(kline.symbol, weight=self.params.weight / len(market.symbols), reason="buy and hold")

    def quiet_bars(self, bars: BarSpan, market: Market) -> int:
        return len(bars) if bars.symbol in self._bought else 0

    def on_fill(self, fill: Fill, market: Market) -> None:
        if fill.side is Side.BUY:  # not one that closes what another strategy held
            self._bought.add(fill.symbol)
