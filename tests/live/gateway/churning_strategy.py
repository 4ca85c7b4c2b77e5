"""A strategy that trades on every bar, and gateway settings for a sandbox on loopback."""

from __future__ import annotations

from typing import Any

from agent.core.strategy import Kline, Market, Strategy, StrategyParams

FAST: dict[str, Any] = {
    "settle": "300ms",
    "ask_every": "20ms",
    "reconcile_every": "1s",
    "poll_every": "50ms",
    "request_timeout": "1s",
    "open_timeout": "2s",
    "ban_wait": "300ms",
    "max_skew": "10m",
    "recv_window": "1s",
    "ping_interval": "500ms",
    "pong_timeout": "500ms",
    "reconnect": {"first": "10ms", "ceiling": "50ms"},
    "retry": {"first": "10ms", "ceiling": "100ms"},
}


class Churn(Strategy):
    """Long, flat, short, flat on successive bars; every other entry is protected, every fourth is a limit."""

    class Params(StrategyParams):
        weight: float = 0.05
        limit: bool = True
        guard: bool = True

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self.bars: dict[str, int] = {}

    def on_kline(self, kline: Kline, market: Market) -> None:
        step = self.bars[kline.symbol] = self.bars.get(kline.symbol, -1) + 1
        weight = (self.params.weight, 0.0, -self.params.weight, 0.0)[step % 4]
        sign = 1 if weight > 0 else -1  # a negative `weight` begins short
        guarded = weight and self.params.guard and step % 8 < 4
        self.target(
            kline.symbol,
            weight=weight,
            limit=kline.close if weight and self.params.limit and step % 16 >= 8 else None,
            stop=-0.02 * sign if guarded else None,
            take_profit=0.02 * sign if guarded else None,
            reason=f"step {step} {sign:+d}",
        )


def churn(**params: Any) -> dict[str, Any]:
    """Return a section [strategy] that trades on every bar."""
    return {"name": "tests.live.gateway.churning_strategy:Churn", "params": params}


def venue_settings(url: str, *, execution: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """Return sections that send orders to the sandbox at `url`."""
    return {
        "execution": {"mode": "testnet", "testnet": FAST | {"venue": url} | (execution or {})},
        "risk": {"stale_after": "8h", "max_orders_per_minute": 100_000},
        **sections,
    }
