"""A strategy that makes orders of every kind."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from agent.core.strategy import Bar, Kline, Market, Signal, Strategy, StrategyParams, TimeInForce


class RestlessStrategy(Strategy):
    """Changes its target on some closed bars, as a hash of the bar determines: market or limit, with or
    without stops.
    """

    class Params(StrategyParams):
        """`every`: one of this many bars changes the target. `largest`: largest absolute weight. `rich`: use
        trailing stops, take-profit levels, sizes by risk and quantity, stop entries, expiry and notices.
        """

        every: int = 4
        largest: float = 0.6
        rich: bool = False

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
        if self.params.rich and weight:
            self._rich_target(kline, side, near)
            return
        self.target(
            kline.symbol,
            weight=weight,
            limit=kline.close * (1 - side * 0.002) if digest[3] % 3 == 0 else None,
            stop=-side * 0.008 * near if weight and digest[4] & 1 else None,
            take_profit=side * 0.01 * near if weight and digest[5] & 1 else None,
            tif=(TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTC)[digest[6] % 4],
            reason="restless",
        )

    def _rich_target(self, kline: Kline, side: int, near: int) -> None:
        digest = blake2b(f"rich{kline.symbol}{kline.start}{kline.close}".encode(), digest_size=8).digest()
        sizes: tuple[dict[str, Any], ...] = (
            {"weight": side * self.params.largest, "stop": -side * 0.008 * near},
            {"risk": 0.01, "stop": -side * 0.008 * near},
            {"qty": side * round(self.params.largest * 3_000 / kline.close, 3)},
        )
        entries: tuple[dict[str, Any], ...] = (
            {},
            {},
            {"limit": kline.close * (1 - side * 0.002), "expire": "2m"},
            {"stop_entry": kline.close * (1 + side * 0.001), "expire": "3m"},
        )
        more: dict[str, Any] = {}
        if digest[2] % 4:
            more["trail"] = -side * 0.006 * near
        if digest[2] & 8:
            more["take_profit"] = [(side * 0.006 * near, 0.3), (side * 0.012 * near, 0.5)]
        if digest[2] & 4:
            self.notify(f"{kline.symbol} at {kline.close}", ("info", "warning", "error")[digest[3] % 3])
        target = {**sizes[digest[0] % 3], **entries[digest[1] % 4], **more}
        self.target(kline.symbol, loosen=digest[4] & 1 == 1, reason="restless", **target)

    def on_signal(self, signal: Signal, market: Market) -> None:
        if signal.actionable:
            self.target(signal.symbol, weight=self.params.largest * signal.score, reason="signal")

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        self.target(signal.symbol, weight=0.0, reason="faded")
