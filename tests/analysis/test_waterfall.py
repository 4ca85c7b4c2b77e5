"""The layout of waterfalls: bars in per cent of the chart, and an axis that is cut if the parts are small."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.waterfall import Waterfall, lay_out

amounts = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 2))


def bars(chart: Waterfall) -> list[tuple[float, float]]:
    return [(step.left, step.width) for step in chart.steps]


def test_an_axis_with_zero_is_not_cut() -> None:
    chart = lay_out(("gross", 60.0), [("spread", -10.0), ("fees", -70.0)], ("net", -20.0))
    assert chart.cut is None
    assert bars(chart) == [(25.0, 75.0), (87.5, 12.5), (0.0, 87.5), (0.0, 25.0)]  # from −20 to 60


@pytest.mark.parametrize(
    ("first", "parts", "last", "cut", "expected"),
    [
        # from 1,090 − 0.15 · 10 to 1,100 + 0.15 · 10 are 13
        (1_100.0, [-10.0], 1_090.0, 1_088.5, [(0.0, 88.46), (11.54, 76.92), (0.0, 11.54)]),
        (-1_090.0, [-10.0], -1_100.0, -1_088.5, [(88.46, 11.54), (11.54, 76.92), (11.54, 88.46)]),
        (100.0, [-90.0], 10.0, None, [(0.0, 100.0), (10.0, 90.0), (0.0, 10.0)]),
        (100.0, [], 100.0, None, [(0.0, 100.0), (0.0, 100.0)]),
        (0.0, [], 0.0, None, [(0.0, 0.0), (0.0, 0.0)]),
    ],
)
def test_the_axis_is_cut_if_the_parts_are_small(
    first: float, parts: list[float], last: float, cut: float | None, expected: list[tuple[float, float]]
) -> None:
    chart = lay_out(("a", first), [("part", part) for part in parts], ("b", last))
    assert chart.cut == (None if cut is None else pytest.approx(cut))
    assert bars(chart) == expected


def test_amounts_stay_exact() -> None:
    first, part = Decimal("100000.123456789"), Decimal("-0.000000001")
    chart = lay_out(("twin", first), [("fee", part)], ("venue", first + part))
    assert [step.amount for step in chart.steps] == [first, part, first + part]
    assert [step.is_total for step in chart.steps] == [True, False, True]


@given(amounts, st.lists(amounts, max_size=8))
def test_bars_lie_in_the_chart_and_begin_where_the_one_before_ends(first: float, parts: list[float]) -> None:
    last = first
    for part in parts:
        last += part
    chart = lay_out(("a", first), [("part", part) for part in parts], ("b", last))
    assert all(0 <= step.left <= 100 and 0 <= step.left + step.width <= 100.01 for step in chart.steps)
    for before, after in pairwise(chart.steps):
        ends = {round(before.left, 1), round(before.left + before.width, 1)}
        begins = {round(after.left, 1), round(after.left + after.width, 1)}
        assert min(abs(one - other) for one in ends for other in begins) < 0.21
