"""Data that stop: the core hears of it by a heartbeat alone, acts once, and is itself again when they are back."""

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
    """Long with a stop after the first bar of a symbol, and with a resting entry from then on."""

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
    """Bars of the first symbol until minute `bars`, and again `back` of them from `back_at`; the other never stops."""
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


def told(sink: ListSink) -> list[tuple[str, float]]:
    return [
        (d.symbol, (d.ts - T0) / MINUTE_MS)
        for d in sink.decisions
        if isinstance(d, RiskEvent) and d.rule == "stale data"
    ]


@pytest.mark.parametrize(
    ("on_stale", "working", "cancelled"),
    [("hold", 2, []), ("cancel", 1, ["stale data"]), ("flatten", 2, ["stale data"])],
    ids=[
        "hold: all stays",
        "cancel: the stop stays",
        "flatten: the stop stays, and the order that closes waits for a price",
    ],
)
def test_what_becomes_of_a_symbol_whose_data_stop(on_stale: str, working: int, cancelled: list[str]) -> None:
    engine, sink = live(heartbeat(9), heartbeat(10.5), heartbeat(11), heartbeat(14), on_stale=on_stale)
    assert told(sink) == [(SYMBOL, 10.5)]  # due at minute 5, stale from minute 10 on, said once
    assert len(engine.states[SYMBOL].book) == working
    assert len(engine.states[OTHER].book) == 2
    ended = [
        d
        for d in sink.decisions
        if isinstance(d, OrderUpdate) and d.symbol == SYMBOL and d.status is OrderStatus.CANCELLED
    ]
    assert [d.reason for d in ended] == cancelled
    assert engine.portfolio.positions[SYMBOL].qty == 30


def test_the_core_hears_nothing_without_a_heartbeat_and_nothing_happens_in_time() -> None:
    _, sink = live(heartbeat(9), on_stale="flatten")
    assert told(sink) == []


def test_when_data_are_back_a_flatten_meets_the_first_price_and_trading_goes_on() -> None:
    engine, sink = live(heartbeat(12), heartbeat(23.5), on_stale="flatten", back_at=20, back=6)
    assert told(sink) == [(SYMBOL, 12), (SYMBOL, 23.5)]
    fills = [
        (d.side.value, (d.ts - T0) // MINUTE_MS)
        for d in sink.decisions
        if isinstance(d, Fill) and d.symbol == SYMBOL
    ]
    assert fills == [("BUY", 1), ("SELL", 20), ("BUY", 21)]
    assert not engine.risk.stale
    assert [d.symbol for d in sink.decisions if isinstance(d, Order) and d.reason == "stale data"] == [SYMBOL]


def test_history_that_is_read_is_not_stale() -> None:
    at = T0 + 20 * MINUTE_MS
    events: list[Event] = [*flat_bars([100.0] * 4), Command("warm-up", at, at), heartbeat(21)]
    engine, sink = run(Resting(), events, finish=False)
    assert told(sink) == []
    assert not engine.risk.stale
