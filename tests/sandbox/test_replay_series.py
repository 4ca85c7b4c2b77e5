"""A replay series: the bars of a file, the price path inside each bar, and candles of every interval."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import Kline
from agent.sandbox.replay_series import ReplaySeries, bar_end, bar_starts

MINUTE = 60_000
START = 1_735_689_600_000


@st.composite
def bars(draw: Any) -> list[Kline]:
    """Generate consecutive minutes with some missing; prices in cents."""
    cents = st.integers(90_00, 110_00)
    made, minute = [], 0
    for _ in range(draw(st.integers(1, 40))):
        minute += draw(st.sampled_from((1, 1, 1, 1, 2, 7)))
        opened, closed, *reach = (draw(cents) / 100 for _ in range(4))
        low, high = min(opened, closed, *reach), max(opened, closed, *reach)
        start = START + minute * MINUTE
        made.append(
            Kline(
                "X",
                MINUTE,
                start,
                start + MINUTE,
                start + MINUTE,
                opened,
                high,
                low,
                closed,
                draw(st.integers(0, 9)) / 2,
            )
        )
    return made


@given(bars(), st.integers(4, 60), st.integers(0, 3))
def test_path_starts_at_open_ends_at_close_and_reaches_both_extremes(
    klines: list[Kline], steps: int, seed: int
) -> None:
    series = ReplaySeries("X", MINUTE, klines, steps=steps, seed=seed)
    for index, kline in enumerate(klines):
        path = series.path(index)
        assert len(path) == steps
        assert (path[0], path[-1], min(path), max(path)) == (kline.open, kline.close, kline.low, kline.high)


@given(bars(), st.integers(4, 12))
def test_running_bar_only_widens_and_ends_as_in_the_file(klines: list[Kline], steps: int) -> None:
    series = ReplaySeries("X", MINUTE, klines, steps=steps, seed=0)
    states = [series.running(0, done) for done in range(1, steps + 1)]
    assert all(a.high <= b.high and a.low >= b.low and a.volume <= b.volume for a, b in pairwise(states))
    first = klines[0]
    assert states[-1][2:7] == (first.open, first.high, first.low, first.close, first.volume)


@given(bars(), st.sampled_from(("1", "3", "5", "60", "D", "W", "M")))
def test_candles_aggregate_their_minutes(klines: list[Kline], interval: str) -> None:
    series = ReplaySeries("X", MINUTE, klines, steps=4, seed=0)
    groups: dict[int, list[Kline]] = {}
    for kline in klines:
        groups.setdefault(int(bar_starts(interval, series.start[[klines.index(kline)]])[0]), []).append(kline)
    expected = [
        (
            start,
            bar_end(interval, start),
            g[0].open,
            max(k.high for k in g),
            min(k.low for k in g),
            g[-1].close,
            sum(k.volume for k in g),
        )
        for start, g in sorted(groups.items(), reverse=True)
    ]
    candles = series.candles(interval, len(klines) - 1, 4, since=None, until=None, limit=1000)
    assert [candle[:7] for candle in candles] == expected
    assert series.candle(interval, len(klines) - 1, 4) == candles[0]


def minutes(count: int) -> ReplaySeries:
    rows = [
        Kline("X", MINUTE, t := START + n * MINUTE, t + MINUTE, t + MINUTE, 1.0, 1.0, 1.0, 1.0, 1.0)
        for n in range(count)
    ]
    return ReplaySeries("X", MINUTE, rows, steps=4, seed=0)


@pytest.mark.parametrize(
    ("since", "until", "limit", "expected"),
    [
        (None, None, 3, [9, 8, 7]),
        (2, None, 3, [4, 3, 2]),  # forward from since
        (2, 6, 200, [6, 5, 4, 3, 2]),  # both ends inclusive
        (2, 6, 2, [6, 5]),
        (None, 4, 2, [4, 3]),
        (20, None, 5, []),
    ],
)
def test_candles_are_selected_by_since_until_and_limit(
    since: int | None, until: int | None, limit: int, expected: list[int]
) -> None:
    moments = [None if n is None else START + n * MINUTE for n in (since, until)]
    candles = minutes(10).candles("1", 9, 2, since=moments[0], until=moments[1], limit=limit)
    assert [(candle.start - START) // MINUTE for candle in candles] == expected


def test_candle_that_starts_before_since_is_excluded() -> None:
    candles = minutes(20).candles("5", 19, 4, since=START + 2 * MINUTE, until=None, limit=10)
    assert [(candle.start - START) // MINUTE for candle in candles] == [15, 10, 5]


def test_no_candles_finer_than_the_file() -> None:
    rows = [Kline("X", 5 * MINUTE, START, START, START, 1.0, 1.0, 1.0, 1.0, 1.0)]
    assert (
        ReplaySeries("X", 5 * MINUTE, rows, steps=4, seed=0).candles(
            "1", 0, 4, since=None, until=None, limit=5
        )
        == []
    )


def test_repeated_series_continues_without_gap_on_the_same_paths() -> None:
    series = minutes(10)
    series.repeat(4)
    assert [(int(start) - START) // MINUTE for start in series.start] == list(range(16))
    assert series.path(10) == series.path(4)
