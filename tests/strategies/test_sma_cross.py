"""The moving-average crossover through the real engine."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import DAY_MS, Fill, Kline
from agent.core.strategy import Strategy
from strategies import load_strategy
from strategies.sma_cross import RollingMean
from tests.support.market import T0, bar, config, flat_bars, run

UP_AND_DOWN = [100, 100, 100, 100, 104, 108, 112, 110, 104, 98, 94, 92, 92, 96, 102, 108, 110]


def fills(strategy: Strategy, events: list[Kline], **sections: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Return (minute of the bar, side, quantity) of each fill."""
    _, sink = run(strategy, events, config(**sections))
    return [((f.ts - T0) // 60_000, f.side.value, str(f.qty)) for f in sink.decisions if isinstance(f, Fill)]


def crossings(cents: list[int], fast: int, slow: int) -> list[tuple[int, bool]]:
    """Compute exactly the bars at whose close the fast average rises above the slow one or falls back."""
    above = [
        i >= slow - 1 and sum(cents[i - fast + 1 : i + 1]) * slow > sum(cents[i - slow + 1 : i + 1]) * fast
        for i in range(len(cents))
    ]
    return [(i + 1, now) for i, (before, now) in enumerate(pairwise(above)) if before != now]


def test_it_is_long_above_and_flat_below() -> None:
    assert crossings(UP_AND_DOWN, 2, 4) == [(4, True), (8, False), (13, True)]
    strategy = load_strategy("sma_cross", {"fast": 2, "slow": 4, "weight": 0.5})
    made = fills(strategy, flat_bars(UP_AND_DOWN))
    assert [(minute, side) for minute, side, _ in made] == [(5, "BUY"), (9, "SELL"), (14, "BUY")]
    assert made[0][2] == made[1][2] == "48.076", "half of 10,000 at 104, then all of it"


def test_it_is_short_below_if_allowed() -> None:
    strategy = load_strategy("sma_cross", {"fast": 2, "slow": 4, "weight": 0.5, "allow_short": True})
    made = fills(strategy, flat_bars(UP_AND_DOWN))
    assert [(minute, side) for minute, side, _ in made] == [(4, "SELL"), (5, "BUY"), (9, "SELL"), (14, "BUY")]
    sizes = [float(qty) for *_, qty in made]
    assert sizes[0] == 50.0, "half of 10,000 at 100"
    assert sizes[1] == pytest.approx(50.0 + 0.5 * 9_800 / 104, abs=0.001), (
        "buys the short back, and half of what is left"
    )


def test_it_does_not_trade_before_the_slow_average_is_complete() -> None:
    rising = [100.0 + i for i in range(100)]
    assert (
        fills(load_strategy("sma_cross", {"fast": 20, "slow": 100, "weight": 0.5}), flat_bars(rising)) == []
    )
    assert (
        len(
            fills(
                load_strategy("sma_cross", {"fast": 20, "slow": 100, "weight": 0.5}),
                flat_bars([*rising, 200.0, 201.0]),
            )
        )
        == 1
    )


def test_it_starts_over_after_a_gap() -> None:
    before = [bar(i, 100, 100, 100, 100) for i in range(4)]
    together, after = ([bar(first + i, 200, 210, 200, 201 + i) for i in range(5)] for first in (4, 10))
    params = {"fast": 2, "slow": 4, "weight": 0.5}
    assert fills(load_strategy("sma_cross", params), [*before, *together])[0][0] == 5
    assert fills(load_strategy("sma_cross", params), [*before, *after])[0][0] == 14, (
        "four bars after the gap, and the next open"
    )


def test_a_weekend_is_not_a_gap_for_equities() -> None:
    days = [day for day in range(24) if day % 7 < 5]
    bars = [
        Kline(
            "SPY",
            DAY_MS,
            T0 + d * DAY_MS,
            T0 + (d + 1) * DAY_MS,
            T0 + (d + 1) * DAY_MS,
            500 + d,
            501 + d,
            500 + d,
            501 + d,
            1e6,
        )
        for d in days
    ]
    strategy = load_strategy("sma_cross", {"fast": 3, "slow": 10, "weight": 0.5})
    made = fills(strategy, bars, market={"symbols": ["SPY"], "category": "equity", "interval": "1d"})
    assert [side for _, side, _ in made] == ["BUY"]


@given(st.lists(st.integers(9_990, 10_010), min_size=12, max_size=200), st.integers(1, 4), st.integers(5, 9))
def test_it_trades_exactly_at_the_crossings(cents: list[int], fast: int, slow: int) -> None:
    """A few prices on a grid of cents make ties frequent; rounding errors must not decide them."""
    closes = [c / 100 for c in cents]
    strategy = load_strategy("sma_cross", {"fast": fast, "slow": slow, "weight": 0.99})
    _, sink = run(strategy, flat_bars(closes), config(paper={"fill": "close"}))
    made = [((f.ts - T0) // 60_000 - 1, f.side.value == "BUY") for f in sink.decisions if isinstance(f, Fill)]
    assert made == crossings(cents, fast, slow)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=300), st.integers(1, 30))
def test_a_rolling_mean_depends_only_on_its_window(values: list[float], length: int) -> None:
    rolling = RollingMean(length)
    for i, value in enumerate(values):
        mean = rolling.push(value)
        if i >= length - 1:
            exact = sum(map(Fraction, values[i - length + 1 : i + 1])) / length
            assert mean == pytest.approx(float(exact), rel=4e-16)
