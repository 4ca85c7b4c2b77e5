"""A strategy that is never content: it makes every kind of order that a strategy can ask for."""

from __future__ import annotations

from hashlib import blake2b

from agent.core.strategy import Kline, Market, Signal, Strategy, StrategyParams, TimeInForce


class Restless(Strategy):
    """On some closed bars it wants another exposure, as a hash of the bar says: at the market or at a limit, with or without stops."""

    class Params(StrategyParams):
        """`every`: of so many bars one makes it change its mind."""

        every: int = 4
        largest: float = 0.6

    def on_kline(self, kline: Kline, market: Market) -> None:
        """Want something else now and then."""
        digest = blake2b(f"{kline.symbol}{kline.start}{kline.close}".encode(), digest_size=8).digest()
        if digest[0] % self.params.every:
            return
        side = 1 if digest[1] & 1 else -1
        weight = side * self.params.largest * (digest[2] % 4) / 3
        near = 1 if digest[7] & 1 else 6  # protection that is soon hit, or lives for long
        self.target(
            kline.symbol,
            weight=weight,
            limit=kline.close * (1 - side * 0.002) if digest[3] % 3 == 0 else None,
            stop=-side * 0.008 * near if weight and digest[4] & 1 else None,
            take_profit=side * 0.01 * near if weight and digest[5] & 1 else None,
            tif=(TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTC)[digest[6] % 4],
            reason="restless",
        )

    def on_signal(self, signal: Signal, market: Market) -> None:
        """Believe every word."""
        if signal.actionable:
            self.target(signal.symbol, weight=self.params.largest * signal.score, reason="signal")

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        """And forget it."""
        self.target(signal.symbol, weight=0.0, reason="faded")
