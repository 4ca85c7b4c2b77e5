"""Trading on signals, through the real engine: each row is a story of headlines, and the trades that must come of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from agent.core.events import MINUTE_MS, Fill, Sentiment
from strategies import load_strategy
from tests.support.market import SYMBOL, T0, bar, config, run

BULL, BEAR, CALM = (0.05, 0.05, 0.9), (0.9, 0.05, 0.05), (0.02, 0.96, 0.02)
Scores = tuple[float, float, float]


class Scenario(NamedTuple):
    """Headlines are (minute, scores), known half a minute into it; trades are (minute whose open or trigger fills, side)."""

    name: str
    headlines: list[tuple[int, Scores]]
    trades: list[tuple[int, str]]
    params: dict[str, Any] = {}
    prices: dict[int, float] = {}  # from a minute on; 100 before


# Half-life 10 minutes and fading below 0.45: a vote of 0.9 fades after 10 minutes, at the first bar that closes after that
SCENARIOS = [
    Scenario("enters on good news, leaves when it has faded", [(2, BULL)], [(3, "BUY"), (13, "SELL")]),
    Scenario("news that agrees keeps it in", [(2, BULL), (8, BULL)], [(3, "BUY"), (26, "SELL")]),
    Scenario(
        "bad news takes it out", [(2, BULL), (5, BEAR), (5, BEAR), (5, BEAR)], [(3, "BUY"), (6, "SELL")]
    ),
    Scenario("bad news alone is no reason to sell what it hasn't", [(2, BEAR)], []),
    Scenario("unless it may sell short", [(2, BEAR)], [(3, "SELL"), (13, "BUY")], {"allow_short": True}),
    Scenario("indecision takes it out", [(2, BULL), (5, BEAR)], [(3, "BUY"), (6, "SELL")]),
    Scenario(
        "neutral news that outweighs takes it out too", [(2, BULL), (5, CALM)], [(3, "BUY"), (6, "SELL")]
    ),
    Scenario("neutral news is nothing to act on", [(2, CALM)], []),
    Scenario(
        "less sure than asked for is not enough", [(2, (0.1, 0.1, 0.8))], [], {"confidence_threshold": 0.85}
    ),
    Scenario("may outlast the signal", [(2, BULL)], [(3, "BUY")], {"exit_on_fade": False}),
    Scenario("leaves when the time is over", [(2, BULL)], [(3, "BUY"), (7, "SELL")], {"hold": "4m"}),
    Scenario(
        "a new signal prolongs the time", [(2, BULL), (5, BULL)], [(3, "BUY"), (10, "SELL")], {"hold": "4m"}
    ),
    Scenario("a stop protects", [(2, BULL)], [(3, "BUY"), (6, "SELL")], {"stop": 0.02}, {6: 97.0}),
    Scenario("a wider one doesn't", [(2, BULL)], [(3, "BUY"), (13, "SELL")], {"stop": 0.05}, {6: 97.0}),
    Scenario("a profit is taken", [(2, BULL)], [(3, "BUY"), (6, "SELL")], {"take_profit": 0.02}, {6: 103.0}),
    Scenario(
        "a short's stop lies above",
        [(2, BEAR)],
        [(3, "SELL"), (6, "BUY")],
        {"stop": 0.02, "allow_short": True},
        {6: 103.0},
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario: Scenario) -> None:
    events: list[Any] = []
    price = 100.0
    for minute in range(40):
        price = scenario.prices.get(minute, price)
        for number, (at, scores) in enumerate(scenario.headlines):
            if at == minute:
                ts = T0 + minute * MINUTE_MS + MINUTE_MS // 2
                events.append(Sentiment(f"n{number}", ts, ts, *scores, symbols=(SYMBOL,)))
        events.append(bar(minute, price, price, price, price))
    settings = config(signals={"half_life": "10m", "fade_below": 0.45})
    engine, sink = run(
        load_strategy("sentiment", {"position_size": 0.2, **scenario.params}), events, settings
    )
    fills = [fill for fill in sink.decisions if isinstance(fill, Fill)]
    assert [((fill.ts - T0) // MINUTE_MS, fill.side.value) for fill in fills] == scenario.trades
    assert all(float(fill.qty) == 20.0 for fill in fills), "a fifth of 10,000 at 100"
    if len(fills) % 2 == 0:
        assert engine.market.position(SYMBOL) == 0.0
