"""The yardstick: buy at the first bar, and do nothing."""

from __future__ import annotations

from pydantic import Field

from agent.core.events import RiskState
from agent.core.strategy import Fill, Kline, Market, Strategy, StrategyParams


class BuyAndHold(Strategy):
    """Buys every symbol at its first bar, each for an equal part of the equity, and holds it."""

    class Params(StrategyParams):
        """What is left of the equity pays for fees and slippage."""

        weight: float = Field(0.98, gt=0)  # fraction of equity, over all symbols

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self._bought: set[str] = set()

    def on_kline(self, kline: Kline, market: Market) -> None:
        """Buy, until it is bought: risk may have refused before."""
        if kline.symbol not in self._bought and market.risk_state is RiskState.ACTIVE:
            self.target(kline.symbol, weight=self.params.weight / len(market.symbols), reason="buy and hold")

    def on_fill(self, fill: Fill, market: Market) -> None:
        """Bought, or being bought."""
        self._bought.add(fill.symbol)
