"""Small markets for tests: bars from tuples, an engine or a paper exchange around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from agent.config import Config, parse
from agent.core.engine import Engine
from agent.core.events import MINUTE_MS, Event, Kline, Order, OrderType, Side, TimeInForce
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy

SYMBOL = "BTCUSDT"
T0 = 1_735_689_600_000  # 2025-01-01T00:00Z


class Plan(Strategy):
    """Sets the target configured for each bar number."""

    def __init__(self, targets: dict[int, dict[str, Any]]) -> None:
        super().__init__()
        self.plan = targets
        self.bars = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self.bars in self.plan:
            self.target(SYMBOL, **self.plan[self.bars])
        self.bars += 1


def config(**sections: dict[str, Any]) -> Config:
    """No spread, slippage, fees or latency by default; lots of 0.001 and ticks of 0.01."""
    raw: dict[str, Any] = {
        "market": {"symbols": [SYMBOL]},
        "instruments": {
            s: {"tick_size": "0.01", "qty_step": "0.001", "min_notional": 0} for s in (SYMBOL, "ETHUSDT")
        },
        "risk": {
            "max_daily_loss": 1,
            "max_drawdown": 1,
            "max_leverage": 100,
            "max_position": 100,
            "max_order": 100,
        },
        "paper": {
            "latency": 0,
            "half_spread_bps": 0,
            "slippage": "none",
            "liquidity": "infinite",
            "fees": "none",
        },
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section}
    return parse(raw, where="test")


def bar(
    minute: int, o: float, h: float, low: float, c: float, volume: float = 1000.0, symbol: str = SYMBOL
) -> Kline:
    """A confirmed one-minute bar that opens `minute` minutes after T0."""
    start = T0 + minute * MINUTE_MS
    return Kline(
        symbol, MINUTE_MS, start, start + MINUTE_MS, start + MINUTE_MS, *map(float, (o, h, low, c, volume))
    )


def bars(prices: Iterable[Sequence[float]], symbol: str = SYMBOL) -> list[Kline]:
    """Consecutive bars of (open, high, low, close[, volume])."""
    return [bar(i, *price, symbol=symbol) for i, price in enumerate(prices)]


def flat_bars(closes: Iterable[float], symbol: str = SYMBOL) -> list[Kline]:
    """Bars that open at the close of the previous one."""
    result, previous = [], None
    for i, close in enumerate(closes):
        opened = close if previous is None else previous
        result.append(bar(i, opened, max(opened, close), min(opened, close), close, symbol=symbol))
        previous = close
    return result


def order(number: int, side: Side, kind: OrderType, qty: str, **more: Any) -> Order:
    """An order decided at T0; prices may be given as text."""
    for key in ("price", "trigger", "stop", "take_profit"):
        if key in more:
            more[key] = Decimal(more[key])
    more.setdefault("tif", TimeInForce.GTC)
    return Order(f"o{number}", SYMBOL, T0, side, kind, Decimal(qty), **more)


def run(
    strategy: Strategy,
    events: Iterable[Event],
    settings: Config | None = None,
    run_id: str = "test",
    *,
    finish: bool = True,
) -> tuple[Engine, ListSink]:
    """Feed `events` to a new engine, finish it, and return it with its decisions.

    Finishing closes the last bar.
    """
    sink = ListSink()
    engine = Engine(settings or config(), strategy, sink, run_id=run_id)
    for event in events:
        engine.handle(event)
    if finish:
        engine.finish()
    return engine, sink
