"""Stale data: a heartbeat detects them, the core acts once, and recovers when data return."""

from __future__ import annotations

import pytest

from agent.core.engine import Engine
from agent.core.events import (
    MINUTE_MS,
    Command,
    Event,
    Fill,
    Kline,
    Order,
    OrderStatus,
    OrderUpdate,
    RiskEvent,
)
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from tests.support.market import SYMBOL, T0, config, flat_bars, run

OTHER = "ETHUSDT"
BOTH = [SYMBOL, OTHER]


class Resting(Strategy):
    """Holds a long position with a stop and a resting entry in each symbol."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if not market.position(kline.symbol):
            self.target(kline.symbol, weight=0.3, stop=-0.5)
        else:
            self.target(kline.symbol, weight=0.6, limit=60.0, stop=-0.5)


def heartbeat(minute: float) -> Command:
    at = T0 + int(minute * MINUTE_MS)
    return Command("heartbeat", at, at, by="daemon")


def live(
    *beats: Command, on_stale: str, bars: int = 4, back_at: int = 0, back: int = 0
) -> tuple[Engine, ListSink]:
    """Run with `bars` bars of the first symbol, `back` more from `back_at`, and all of the other."""
    events: list[Event] = [*beats]
    for symbol, minutes in ((SYMBOL, [*range(bars), *range(back_at, back_at + back)]), (OTHER, range(30))):
        tape = flat_bars([100.0] * 30, symbol)
        events += [tape[minute] for minute in minutes]
    events.sort(key=lambda event: (event.available_at, isinstance(event, Kline)))
    risk = {
        "on_stale": on_stale,
        "max_position": 100,
        "max_leverage": 100,
        "max_order": 100,
        "max_daily_loss": 1,
        "max_drawdown": 1,
    }
    return run(Resting(), events, config(market={"symbols": BOTH}, risk=risk), finish=False)


def stale_events(sink: ListSink) -> list[tuple[str, float]]:
    return [
        (d.symbol, (d.ts - T0) / MINUTE_MS)
        for d in sink.decisions
        if isinstance(d, RiskEvent) and d.rule == "stale data"
    ]


@pytest.mark.parametrize(
    ("on_stale", "working", "cancelled"),
    [("hold", 2, []), ("cancel", 1, ["stale data"]), ("flatten", 2, ["stale data"])],
    ids=[
        "hold: all orders stay",
        "cancel: the stop stays",
        "flatten: the stop stays and the closing order waits for a price",
    ],
)
def test_stale_data_are_handled_as_configured(on_stale: str, working: int, cancelled: list[str]) -> None:
    engine, sink = live(heartbeat(9), heartbeat(10.5), heartbeat(11), heartbeat(14), on_stale=on_stale)
    assert stale_events(sink) == [(SYMBOL, 10.5)]  # due at minute 5, stale from minute 10 on, reported once
    assert len(engine.states[SYMBOL].book) == working
    assert len(engine.states[OTHER].book) == 2
    ended = [
        d
        for d in sink.decisions
        if isinstance(d, OrderUpdate) and d.symbol == SYMBOL and d.status is OrderStatus.CANCELLED
    ]
    assert [d.reason for d in ended] == cancelled
    assert engine.portfolio.positions[SYMBOL].qty == 30


def test_stale_data_are_detected_only_by_a_heartbeat() -> None:
    _, sink = live(heartbeat(9), on_stale="flatten")
    assert stale_events(sink) == []


def test_a_flatten_fills_at_the_first_price_when_data_return() -> None:
    engine, sink = live(heartbeat(12), heartbeat(23.5), on_stale="flatten", back_at=20, back=6)
    assert stale_events(sink) == [(SYMBOL, 12), (SYMBOL, 23.5)]
    fills = [
        (d.side.value, (d.ts - T0) // MINUTE_MS)
        for d in sink.decisions
        if isinstance(d, Fill) and d.symbol == SYMBOL
    ]
    assert fills == [("BUY", 1), ("SELL", 20), ("BUY", 21)]
    assert not engine.risk.stale
    assert [d.symbol for d in sink.decisions if isinstance(d, Order) and d.reason == "stale data"] == [SYMBOL]


def test_data_are_not_stale_during_the_warm_up() -> None:
    at = T0 + 20 * MINUTE_MS
    events: list[Event] = [*flat_bars([100.0] * 4), Command("warm-up", at, at), heartbeat(21)]
    engine, sink = run(Resting(), events, finish=False)
    assert stale_events(sink) == []
    assert not engine.risk.stale
