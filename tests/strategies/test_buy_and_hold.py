"""Buy and hold through the real engine."""

from __future__ import annotations

import pytest

from agent.core.events import Fill
from strategies import load_strategy
from tests.support.market import SYMBOL, bar, config, run


def test_it_buys_equal_parts_once() -> None:
    events = [
        bar(minute, price, price, price, price, symbol=symbol)
        for minute in range(50)
        for symbol, price in ((SYMBOL, 100.0 + minute), ("ETHUSDT", 50.0 - minute / 2))
    ]
    engine, sink = run(load_strategy("buy_and_hold"), events, config(market={"symbols": [SYMBOL, "ETHUSDT"]}))
    bought = {fill.symbol: float(fill.qty) for fill in sink.decisions if isinstance(fill, Fill)}
    assert bought == {SYMBOL: 49.0, "ETHUSDT": 98.0}
    assert sum(isinstance(decision, Fill) for decision in sink.decisions) == 2
    assert engine.market.equity == pytest.approx(10_000 + 49 * (149 - 101) - 98 * (49.5 - 25.5), abs=1.0)


def test_it_buys_a_symbol_that_starts_later() -> None:
    events = [bar(minute, 100, 100, 100, 100) for minute in range(3)]
    events += [bar(minute, 50, 50, 50, 50, symbol="ETHUSDT") for minute in range(10, 13)]
    _, sink = run(
        load_strategy("buy_and_hold", {"weight": 0.5}),
        events,
        config(market={"symbols": [SYMBOL, "ETHUSDT"]}),
    )
    fills = [fill for fill in sink.decisions if isinstance(fill, Fill)]
    assert [fill.symbol for fill in fills] == [SYMBOL, "ETHUSDT"]
    assert [float(fill.qty * fill.price) for fill in fills] == [2500.0, 2500.0]
