"""A strategy that makes orders of every kind."""

from __future__ import annotations

from hashlib import blake2b

from agent.core.strategy import Bar, Kline, Market, Signal, Strategy, StrategyParams, TimeInForce


class RestlessStrategy(Strategy):
    """Changes its target on some closed bars, as a hash of the bar determines: market or limit, with or
    without stops.
    """

    class Params(StrategyParams):
        """`every`: one of this many bars changes the target. `largest`: largest absolute weight."""

        every: int = 4
        largest: float = 0.6

    intervals = ("1m", "5m")

    def on_bar(self, bar: Bar, market: Market) -> None:
        """Close short positions above the mean of the last hour."""
        if bar.interval == "5m" and bar.close > market.bars(bar.symbol, "5m", 12).close.mean():
            self.target(bar.symbol, weight=max(market.weight(bar.symbol), 0.0), reason="above the mean")

    def on_kline(self, kline: Kline, market: Market) -> None:
        digest = blake2b(f"{kline.symbol}{kline.start}{kline.close}".encode(), digest_size=8).digest()
        if digest[0] % self.params.every:
            return
        side = 1 if digest[1] & 1 else -1
        weight = side * self.params.largest * (digest[2] % 4) / 3
        near = 1 if digest[7] & 1 else 6  # protection that is hit soon or late
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
        if signal.actionable:
            self.target(signal.symbol, weight=self.params.largest * signal.score, reason="signal")

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        self.target(signal.symbol, weight=0.0, reason="faded")
