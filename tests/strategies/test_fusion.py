"""The fusion strategy through the real engine: a table of predictions and the resulting trades."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from agent.core.engine import Engine
from agent.core.events import MINUTE_MS, Fill, Sentiment
from agent.core.features import WARM_UP_BARS, Features
from agent.core.fusion_inputs import Forecast
from agent.core.sinks import ListSink
from strategies import load_strategy
from tests.support.market import T0, bar, config

UP, DOWN, EVEN = (0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.3, 0.4, 0.3)
MOVE = 0.01
PARAMS = {"risk": 0.002, "round_trip": 0.001, "hold": "5m", "cool_down": "2m"}
FIRST = WARM_UP_BARS - 1  # first minute with all features


class Oracle:
    """Predicts the given probabilities bar by bar, then equal ones."""

    fingerprint, interval, half_life = "oracle", MINUTE_MS, MINUTE_MS

    def __init__(self, predictions: list[tuple[float, float, float]]) -> None:
        self._predictions = iter(predictions)

    def vector(self, sentiment: Sentiment, asset: str) -> None:
        return None

    def read(self, mean: Any) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        return Forecast(*next(self._predictions, EVEN), MOVE)


class Scenario(NamedTuple):
    """Predictions are of the bars from `FIRST` on; trades are (minutes after `FIRST`, side)."""

    name: str
    predictions: list[tuple[float, float, float]]
    trades: list[tuple[int, str]]
    params: dict[str, Any] = {}


SCENARIOS = [
    Scenario(
        "buys what is expected to rise, for as long as the model looks ahead", [UP], [(1, "BUY"), (6, "SELL")]
    ),
    Scenario("sells short what is expected to fall", [DOWN], [(1, "SELL"), (6, "BUY")]),
    Scenario("unless it may not", [DOWN], [], {"allow_short": False}),
    Scenario("nothing where costs are above the expected gain", [UP], [], {"round_trip": 0.008}),
    Scenario("nothing where they are, times the margin", [UP], [], {"round_trip": 0.004, "margin": 2}),
    Scenario("a repeated word prolongs the time", [UP, EVEN, UP], [(1, "BUY"), (8, "SELL")]),
    Scenario("a word against the position turns it", [UP, EVEN, DOWN], [(1, "BUY"), (3, "SELL"), (8, "BUY")]),
    Scenario("a weak prediction against it exits", [UP, (0.32, 0.4, 0.28)], [(1, "BUY"), (2, "SELL")]),
    Scenario("no entry after an exit", [UP, (0.32, 0.4, 0.28), UP], [(1, "BUY"), (2, "SELL")]),
    Scenario(
        "an entry after the cool-down",
        [UP, (0.32, 0.4, 0.28), EVEN, UP],
        [(1, "BUY"), (2, "SELL"), (4, "BUY"), (9, "SELL")],
    ),
]


@pytest.mark.parametrize("row", SCENARIOS, ids=lambda row: row.name)
def test_predictions_lead_to_trades(row: Scenario) -> None:
    sink = ListSink()
    strategy = load_strategy("fusion", PARAMS | row.params)
    oracle: Any = Oracle(row.predictions)
    engine = Engine(config(), strategy, sink, run_id="r", predictor=oracle)
    for minute in range(FIRST + 15):
        price = 100 + 0.01 * (minute % 3)
        engine.handle(bar(minute, price, price + 0.02, price - 0.02, price))
    fills = [item for item in sink.decisions if isinstance(item, Fill)]
    merged: list[tuple[int, str]] = []
    for fill in fills:
        trade = ((fill.ts - T0) // MINUTE_MS - FIRST, fill.side.value)
        if not merged or merged[-1] != trade:
            merged.append(trade)
    assert merged == row.trades


def test_an_average_move_costs_the_configured_risk() -> None:
    sink = ListSink()
    oracle: Any = Oracle([UP])
    engine = Engine(config(), load_strategy("fusion", PARAMS), sink, run_id="r", predictor=oracle)
    for minute in range(FIRST + 2):
        engine.handle(bar(minute, 100, 100.02, 99.98, 100))
    fill = next(item for item in sink.decisions if isinstance(item, Fill))
    assert float(fill.qty * fill.price) == pytest.approx(10_000 * PARAMS["risk"] / MOVE, rel=1e-3)
