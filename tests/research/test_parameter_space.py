"""Parameter ranges from the command line, defaults, and grids."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.core.events import HOUR_MS, MINUTE_MS
from agent.research.parameter_space import (
    ParameterRange,
    default_space,
    describe_space,
    grid,
    parse_ranges,
)

MINE = """
from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from agent.core.durations import Duration
from tapewire import Strategy, StrategyParams


class Side(Enum):
    LONG = "long"
    BOTH = "both"


class Params(StrategyParams):
    length: int = Field(20, ge=5, le=60)  # bars
    stretch: float = Field(1.0, gt=0.5, lt=1.5, description="bands")
    cap: int = Field(8, gt=1, lt=10)
    lot: int = Field(10, ge=10, le=50, multiple_of=10)
    hold: Duration = Field(600_000, ge=60_000, le=3_600_000)
    mode: Literal["open", "close"] = "open"
    side: Side = Side.LONG
    reverse: bool = False
    weight: float = 0.1  # fraction of equity
    margin: float = Field(0.4, gt=0)
    stop: Annotated[float, Field(gt=0, lt=1)] | None = None


class Mine(Strategy[Params]):
    pass
"""


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


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "bounded.py"
    file.write_text(MINE)
    return str(file)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("length", ParameterRange("length", 5, 60, None, "log", whole=True)),
        ("stretch", ParameterRange("stretch", 0.51, 1.49)),  # the bounds themselves are excluded
        ("cap", ParameterRange("cap", 2, 9, whole=True)),
        ("lot", ParameterRange("lot", 10, 50, 10, whole=True)),
        ("hold", ParameterRange("hold", MINUTE_MS, HOUR_MS, None, "log", whole=True)),
        ("mode", ParameterRange("mode", choices=("open", "close"))),
        ("side", ParameterRange("side", choices=("long", "both"))),
        ("reverse", ParameterRange("reverse", choices=(False, True))),
        ("margin", ParameterRange("margin", 0.1, 1.6, None, "log")),  # one bound: around the default
    ],
)
def test_bounds_of_parameters_are_the_search_space(mine: str, name: str, expected: ParameterRange) -> None:
    found = {item.name: item for item in default_space(mine)}
    assert found[name] == expected


def test_parameters_without_bounds_stay_at_their_defaults_and_are_named(mine: str) -> None:
    ranges = default_space(mine)
    assert {"weight", "stop"}.isdisjoint(item.name for item in ranges)
    _, left = describe_space(ranges, mine, fixed={})
    assert left == "left as they are: weight=0.1 (without bounds), stop=– (off by default)"


def test_named_ranges_narrow_the_space(mine: str) -> None:
    ranges = parse_ranges(["length=10:20"], mine)
    searched, left = describe_space(ranges, mine, fixed={"weight": "0.2"})
    assert searched == "searched: length 10 to 20"
    assert "weight=0.2 (set)" in left
    assert "mode=open (not named by --range)" in left
    assert "hold=10m (not named by --range)" in left


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("length=1:20", r"length can't be 1 \(it is from 5 to 60\)"),
        ("length=5:90", "length can't be 90"),
        ("stretch=0.5:1", r"stretch can't be 0.5 \(it is above 0.5 below 1.5\)"),
        ("cap=1,5", "cap can't be 1"),
        ("hold=1m:2h", r"hold can't be 2h \(it is from 1m to 1h\)"),
        ("mode=open,both", r"mode can't be both \(it is one of open, close\)"),
    ],
)
def test_ranges_beyond_the_bounds_are_refused(mine: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_ranges([text], mine)


def test_a_strategy_without_bounds_has_nothing_to_search(tmp_path: Path) -> None:
    file = tmp_path / "unbounded.py"
    file.write_text(
        MINE.partition("class Side")[0]
        + """
class Params(StrategyParams):
    length: int = 20


class Mine(Strategy[Params]):
    pass
"""
    )
    with pytest.raises(UsageError, match="has bounds, so there is nothing to search"):
        default_space(str(file))


def test_a_grid_leaves_out_combinations_that_the_strategy_refuses() -> None:
    ranges = [ParameterRange("fast", choices=(10, 50)), ParameterRange("slow", choices=(20, 100))]
    assert grid(ranges, "sma_cross", {}, points=9) == [
        {"fast": 10, "slow": 20},
        {"fast": 10, "slow": 100},
        {"fast": 50, "slow": 100},
    ]
    with pytest.raises(UsageError, match="must be below"):
        grid([ParameterRange("fast", choices=(200,))], "sma_cross", {}, points=1)
