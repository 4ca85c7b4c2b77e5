"""The sentiment strategy through the real engine: a table of headlines and the resulting trades."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from agent.core.events import MINUTE_MS, Fill, Sentiment
from strategies import load_strategy
from tests.support.market import SYMBOL, T0, bar, config, run

BULL, BEAR, CALM = (0.05, 0.05, 0.9), (0.9, 0.05, 0.05), (0.02, 0.96, 0.02)
Scores = tuple[float, float, float]


class Scenario(NamedTuple):
    """Headlines are (minute, scores), available at second 30; trades are (minute of the fill, side)."""

    name: str
    headlines: list[tuple[int, Scores]]
    trades: list[tuple[int, str]]
    params: dict[str, Any] = {}
    prices: dict[int, float] = {}  # from a minute on; 100 before
    qty: float = 20.0  # a fifth of 10,000, at 100


# Half-life 10 minutes and fading below 0.45: a vote of 0.9 fades after 10 minutes, at the first bar that
# closes after that
SCENARIOS = [
    Scenario("enters on a BUY, exits when the signal expires", [(2, BULL)], [(3, "BUY"), (13, "SELL")]),
    Scenario("an agreeing headline extends the position", [(2, BULL), (8, BULL)], [(3, "BUY"), (26, "SELL")]),
    Scenario("a SELL exits", [(2, BULL), (5, BEAR), (5, BEAR), (5, BEAR)], [(3, "BUY"), (6, "SELL")]),
    Scenario("a SELL without a position does nothing", [(2, BEAR)], []),
    Scenario(
        "a SELL enters short if allowed", [(2, BEAR)], [(3, "SELL"), (13, "BUY")], {"allow_short": True}
    ),
    Scenario("an undecided vote exits", [(2, BULL), (5, BEAR)], [(3, "BUY"), (6, "SELL")]),
    Scenario("outweighing neutral news exits", [(2, BULL), (5, CALM)], [(3, "BUY"), (6, "SELL")]),
    Scenario("neutral news does nothing", [(2, CALM)], []),
    Scenario(
        "confidence below the threshold does nothing",
        [(2, (0.1, 0.1, 0.8))],
        [],
        {"confidence_threshold": 0.85},
    ),
    Scenario(
        "without exit_on_fade it keeps the position", [(2, BULL)], [(3, "BUY")], {"exit_on_fade": False}
    ),
    Scenario("exits after hold", [(2, BULL)], [(3, "BUY"), (7, "SELL")], {"hold": "4m"}),
    Scenario(
        "a new signal restarts hold", [(2, BULL), (5, BULL)], [(3, "BUY"), (10, "SELL")], {"hold": "4m"}
    ),
    Scenario("a stop exits", [(2, BULL)], [(3, "BUY"), (6, "SELL")], {"stop": 0.02}, {6: 97.0}),
    Scenario("a wider stop does not", [(2, BULL)], [(3, "BUY"), (13, "SELL")], {"stop": 0.05}, {6: 97.0}),
    Scenario("a profit is taken", [(2, BULL)], [(3, "BUY"), (6, "SELL")], {"take_profit": 0.02}, {6: 103.0}),
    Scenario(
        "a short's stop lies above",
        [(2, BEAR)],
        [(3, "SELL"), (6, "BUY")],
        {"stop": 0.02, "allow_short": True},
        {6: 103.0},
    ),
    # 1 % below 100: a price of 98.5 trades through the limit of 99
    Scenario(
        "a limit entry waits for its price, and the exit doesn't",
        [(2, BULL)],
        [(6, "BUY"), (13, "SELL")],
        {"limit_offset": 0.01},
        {6: 98.5},
        20.202,  # a fifth of 10,000, at 99, in lots of 0.001
    ),
    Scenario(
        "a limit entry that isn't filled is withdrawn", [(2, BULL)], [], {"limit_offset": 0.01}, {20: 98.5}
    ),
    Scenario(
        "a short's limit lies above",
        [(2, BEAR)],
        [(6, "SELL"), (13, "BUY")],
        {"limit_offset": 0.01, "allow_short": True},
        {6: 101.5},
        19.801,  # a fifth of 10,000, at 101
    ),
    Scenario(
        "a limit entry never takes liquidity", [(2, BULL)], [], {"limit_offset": 0.01}, {2: 98.0, 6: 97.0}
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_headlines_lead_to_trades(scenario: Scenario) -> None:
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
    assert all(float(fill.qty) == scenario.qty for fill in fills)
    assert [fill.maker for fill in fills] == [
        "limit_offset" in scenario.params and number == 0 for number in range(len(fills))
    ]
    if len(fills) % 2 == 0:
        assert engine.market.position(SYMBOL) == 0.0
