"""Packed numbers: what is read back is what was packed, within the stated precision."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.report.candles import LADDER, fold
from agent.analysis.report.packing import pack, pack_candles, pack_points
from agent.analysis.report.report_data import Candles, Curve
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from tests.analysis.unpacking import read_candles, read_integers, read_points

LARGE = 2**52


@given(st.lists(st.tuples(*[st.integers(-LARGE, LARGE)] * 3), max_size=50))
def test_integers_of_any_size_come_back(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array([row[at] for row in rows], np.int64) for at in range(3)]
    read = read_integers(pack(columns), len(rows)) if rows else [[], [], []]
    assert [np.cumsum(column).tolist() for column in read] == [column.tolist() for column in columns]


@given(
    st.lists(st.floats(-1e12, 1e12, allow_nan=False), min_size=1, max_size=50),
    st.integers(0, 2_000_000_000),
)
def test_points_keep_six_digits_of_the_largest(values: list[float], first: int) -> None:
    packed = pack_points(Curve([(first + 60 * at) * 1_000 for at in range(len(values))], values))
    ts, read = read_points(msgspec.to_builtins(packed))
    assert ts == [first + 60 * at for at in range(len(values))]
    assert read == pytest.approx(values, abs=max(max(map(abs, values)) * 1e-5, 1e-12))


def test_of_points_in_one_second_the_last_finite_one_is_kept() -> None:
    packed = pack_points(Curve([1_000, 1_200, 1_900, 3_000, 4_000], [1.0, 2.0, 3.0, 4.0, float("nan")]))
    assert read_points(msgspec.to_builtins(packed)) == ([1, 3], pytest.approx([3.0, 4.0]))


@given(st.lists(st.tuples(*[st.floats(1e-6, 1e6)] * 4, st.floats(0, 1e9)), min_size=1, max_size=30))
def test_candles_come_back_in_order_and_consistent(rows: list[tuple[float, ...]]) -> None:
    bars = [(row[0], max(row[:4]), min(row[:4]), row[3], row[4]) for row in rows]
    candles = Candles(
        MINUTE_MS, [at * MINUTE_MS for at in range(len(bars))], *(list(c) for c in zip(*bars, strict=True))
    )
    packed = pack_candles(candles)
    read = read_candles(msgspec.to_builtins(packed))
    assert [row[0] for row in read] == [at * 60 for at in range(len(bars))]
    for row, bar in zip(read, bars, strict=True):
        assert row[1:5] == pytest.approx(bar[:4], abs=packed.step * 0.51)
        assert row[2] >= max(row[1], row[4]) >= min(row[1], row[4]) >= row[3]


@pytest.mark.parametrize(
    "prices",
    [
        [119.2, 1.234, 0.00012, 0.00001234],  # a coin that collapses
        [1_000.4, 0.00001234],
        [0.00001234, 0.00001235],
        [109_900.5, 74_500.1],
    ],
)
def test_each_price_keeps_four_digits(prices: list[float]) -> None:
    ts = [at * MINUTE_MS for at in range(len(prices))]
    packed = pack_candles(Candles(MINUTE_MS, ts, prices, prices, prices, prices, [0.0] * len(prices)))
    read = read_candles(msgspec.to_builtins(packed))
    assert [row[4] for row in read] == pytest.approx(prices, rel=5e-4)
    assert max(prices) / packed.step < 2**52, "JavaScript reads it exactly"


@pytest.mark.parametrize(
    ("minutes", "most", "length"),
    [
        (100, 100, MINUTE_MS),
        (101, 100, 2 * MINUTE_MS),
        (1_440, 100, 15 * MINUTE_MS),
        (1_440, 2, 12 * HOUR_MS),
    ],
)
def test_bars_are_folded_into_the_shortest_candles_that_are_few_enough(
    minutes: int, most: int, length: int
) -> None:
    prices = [100.0 + at for at in range(minutes)]
    bars = Candles(
        MINUTE_MS,
        [at * MINUTE_MS for at in range(minutes)],
        prices,
        [price + 2 for price in prices],
        [price - 2 for price in prices],
        [price + 1 for price in prices],
        [1.0] * minutes,
    )
    folded = fold(bars, most)
    assert folded.interval == length
    assert len(folded.ts) <= most
    assert sum(folded.volume) == minutes
    assert (folded.open[0], folded.close[-1]) == (prices[0], prices[-1] + 1)
    assert (max(folded.high), min(folded.low)) == (prices[-1] + 2, prices[0] - 2)


def test_bars_of_months_stay_as_they_are() -> None:
    month = 30 * DAY_MS
    bars = Candles(month, list(range(50)), *([[1.0] * 50] * 5))
    assert fold(bars, 10) is bars
    assert month not in LADDER
