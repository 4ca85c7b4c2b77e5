"""Parameter ranges from the command line, defaults, and grids."""

from __future__ import annotations

import pytest

from agent.core.errors import UsageError
from agent.core.events import HOUR_MS
from agent.research.parameter_space import ParameterRange, default_space, grid, parse_ranges


@pytest.mark.parametrize(
    ("text", "strategy", "points"),
    [
        ("fast=5:60", "sma_cross", [5, 19, 32, 46, 60]),
        ("fast=5:60:20", "sma_cross", [5, 25, 45]),
        ("fast=10:160:log", "sma_cross", [10, 20, 40, 80, 160]),
        ("fast=5:7", "sma_cross", [5, 6, 7]),
        ("weight=0.1:0.5", "sma_cross", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("fast=3,9", "sma_cross", [3, 9]),
        ("allow_short=true,false", "sma_cross", [True, False]),
        ("hold=1h:5h", "sentiment", [HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS, 5 * HOUR_MS]),
    ],
)
def test_a_range_covers_its_values(text: str, strategy: str, points: list[object]) -> None:
    (found,) = parse_ranges([text], strategy)
    assert found.points(5) == pytest.approx(points)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fast"], "'fast' is not a range"),
        (["fast=60:5"], "is not a range"),
        (["fast=a:b"], "is not a range"),
        (["fast=0:5:log"], "is not a range"),
        (["fsat=1:2"], "did you mean fast"),
        (["fast=1:2", "fast=3:4"], "twice"),
    ],
)
def test_other_texts_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_ranges(texts, "sma_cross")


def test_without_ranges_numbers_are_searched_around_their_defaults() -> None:
    found = {item.name: item for item in default_space("sma_cross")}
    assert (found["fast"].low, found["fast"].high, found["fast"].whole) == (5, 80, True)
    assert found["allow_short"].choices == (False, True)
    threshold = {item.name: item for item in default_space("sentiment")}["confidence_threshold"]
    assert threshold.high == 1.0  # the limit of the parameter


def test_a_grid_leaves_out_combinations_that_the_strategy_refuses() -> None:
    ranges = [ParameterRange("fast", choices=(10, 50)), ParameterRange("slow", choices=(20, 100))]
    assert grid(ranges, "sma_cross", {}, points=9) == [
        {"fast": 10, "slow": 20},
        {"fast": 10, "slow": 100},
        {"fast": 50, "slow": 100},
    ]
    with pytest.raises(UsageError, match="must be below"):
        grid([ParameterRange("fast", choices=(200,))], "sma_cross", {}, points=1)
