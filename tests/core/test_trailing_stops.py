"""Trailing stops on paper: a table of bars and fills, and an oracle that walks each bar tick by tick."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.events import Event, Fill, Order, OrderStatus, OrderType, OrderUpdate
from tests.support.market import SYMBOL, Plan, bar, config, run

D = Decimal
FLAT = (100, 100, 100, 100)


def trade(
    prices: Sequence[Sequence[float]], targets: dict[int, dict[str, Any]], **paper: Any
) -> list[tuple[str, float, str]]:
    """Return side, price and reason of each fill."""
    events: list[Event] = [bar(minute, *one) for minute, one in enumerate(prices)]
    _, sink = run(Plan(targets), events, config(paper=paper))
    return [(f.side.value, float(f.price), f.reason) for f in sink.decisions if isinstance(f, Fill)]


# All are bought (sold) at the open of the second bar, 100, with a distance of 2 % of 100, which is 2.
@pytest.mark.parametrize(
    ("weight", "bars", "leaves"),
    [
        # the third bar's high, 105, puts the trigger at 103; the fourth falls through it
        (0.5, [FLAT, (100, 105, 100, 105), (105, 105, 102, 102)], 103.0),
        # a bar's own high doesn't raise the trigger before its low: 103.5 is above 100 - 2, and the close
        # 104 is above 105 - 2
        (0.5, [FLAT, (100, 105, 98.5, 104), (104, 104, 104, 104)], None),
        # its close certainly comes after its high: 102.5 is below 105 - 2, and is the price of the fill
        (0.5, [FLAT, (100, 105, 100, 102.5), (102.5, 103, 102, 103)], 102.5),
        # the open comes first: 106 - 2 is 104, which the low reaches
        (0.5, [FLAT, (106, 107, 103, 106.5), FLAT], 104.0),
        # an open beyond the trigger is the price
        (0.5, [FLAT, (100, 105, 100, 105), (99, 99, 98, 99)], 99.0),
        # the low of the entry's bar comes after its open; the trigger is 98
        (0.5, [(100, 101, 97, 99)], 98.0),
        # the high of the entry's bar counts, too: 103 - 2 is 101
        (0.5, [(100, 103, 100, 103), (102, 102, 100, 100)], 101.0),
        # a short, mirrored: the low of 95 puts the trigger at 97
        (-0.5, [FLAT, (100, 100, 95, 95), (95, 98, 95, 98)], 97.0),
        (-0.5, [FLAT, (100, 100, 95, 97.5), (97.5, 98, 97, 97)], 97.5),
        (-0.5, [FLAT, (100, 101.5, 95, 96), (96, 96, 96, 96)], None),
    ],
)
def test_a_trailing_stop_follows_the_best_price(
    weight: float, bars: list[tuple[float, ...]], leaves: float | None
) -> None:
    trail = -0.02 if weight > 0 else 0.02
    fills = trade([FLAT, *bars], {0: {"weight": weight, "trail": trail}})

    assert [price for _, price, reason in fills if reason] == ([] if leaves is None else [leaves])


def test_the_order_states_its_distance_and_first_trigger() -> None:
    _, sink = run(Plan({0: {"weight": 0.5, "trail": -0.02}}), [bar(0, *FLAT), bar(1, *FLAT)])

    entry, trailing = [one for one in sink.decisions if isinstance(one, Order)]
    assert entry.trail == D("2.00")
    assert (trailing.type, trailing.trail, trailing.trigger) == (
        OrderType.TRAILING_STOP,
        D("2.00"),
        D("98.00"),
    )
    assert trailing.reduce_only
    assert trailing.oco == entry.id


def test_a_limit_entry_in_a_bar_trails_from_its_own_price_and_not_from_the_high() -> None:
    # Bought at 99 in the second bar, whose high of 103 may have come before: distance 1.98, trigger 97.02
    entry = {"weight": 0.5, "limit": 99.0, "trail": -0.02}
    bars = [FLAT, FLAT, (100, 103, 98, 99), (99, 99, 97.5, 98), (98, 98, 97, 97)]

    assert trade(bars, {0: entry}) == [("BUY", 99.0, ""), ("SELL", 97.02, "trailing-stop")]


def test_a_limit_entry_whose_bar_reaches_its_trail_leaves_there() -> None:
    entry = {"weight": 0.5, "limit": 99.0, "trail": -0.02}

    assert trade([FLAT, FLAT, (100, 100, 96, 98)], {0: entry})[-1] == ("SELL", 97.02, "trailing-stop")


def test_a_stop_and_a_trailing_stop_work_together_and_one_ends_the_other() -> None:
    # The stop at 95 is reached first by the gap; the trail at 98 is above it and has the earlier order number
    events = [bar(n, *one) for n, one in enumerate([FLAT, FLAT, (94, 94, 93, 93), FLAT])]
    _, sink = run(Plan({0: {"weight": 0.5, "stop": -0.05, "trail": -0.02}}), events)

    assert [f.price for f in sink.decisions if isinstance(f, Fill)] == [D(100), D(94)]
    ends = [u for u in sink.decisions if isinstance(u, OrderUpdate) and u.status is OrderStatus.CANCELLED]
    assert [u.reason for u in ends] == ["the other side was filled"]


UP = [FLAT, FLAT, (100, 110, 100, 110)]  # best price 110, trigger 108


@pytest.mark.parametrize(
    ("again", "after", "leaves"),
    [
        ({"trail": -0.01}, (110, 110, 108.5, 109), 108.9),  # tighter: 110 - 1.1
        ({"trail": -0.02}, (110, 110, 107.9, 108), 108.0),  # 2 % of 110 would be looser: stays
        ({"trail": -0.05}, (110, 110, 107.9, 108), 108.0),
        ({"trail": -0.05, "loosen": True}, (110, 110, 104, 105), 104.5),  # 110 - 5.5
        ({}, (110, 110, 107.9, 108), 108.0),
    ],
)
def test_a_new_trail_tightens_the_working_one_and_loosens_it_only_on_request(
    again: dict[str, Any], after: tuple[float, ...], leaves: float
) -> None:
    plan = {0: {"weight": 0.5, "trail": -0.02}, 2: {"weight": 0.5, **again}}
    fills = trade([*UP, after], plan, rebalance_band=0.5)

    assert fills[-1] == ("SELL", leaves, "trailing-stop")


def test_prices_of_the_open_bar_move_the_trail_and_its_bar_does_not_undo_them() -> None:
    def live(minute: int, second: int, price: float) -> Event:
        whole = bar(minute, price, price, price, price)
        moment = whole.start + second * 1_000
        return replace(whole, ts=moment, available_at=moment, confirm=False)

    bought = [bar(0, *FLAT), bar(1, *FLAT)]
    # 104 puts the trigger at 102. The bar opened at 100, below it, and that was before
    updates = [live(2, 20, 104.0), live(2, 40, 103.0)]
    _, sink = run(Plan({0: {"weight": 0.5, "trail": -0.02}}), [*bought, *updates, bar(2, 100, 104, 99, 103)])
    assert [f for f in sink.decisions if isinstance(f, Fill) and f.reason] == []

    _, sink = run(Plan({0: {"weight": 0.5, "trail": -0.02}}), [*bought, updates[0], live(2, 30, 101.5)])
    assert [f.price for f in sink.decisions if isinstance(f, Fill) and f.reason] == [D("101.5")]


# -- oracle ------------------------------------------------------------------------------------------------

Ticks = tuple[int, int, int, int]


def walk(bars: Sequence[Ticks], distance: int, sign: int) -> tuple[int, int] | None:
    """Return bar and price in ticks at which a stop that trails a position of `sign` leaves it, or None.

    The position is entered at the first open. Within a bar the price walks tick by tick from the open to the
    worst price, then to the best, then to the close; on the last way the fill is at the close.
    """
    best = bars[0][0]
    for number, (opened, high, low, close) in enumerate(bars):
        if (best - opened) * sign >= distance:
            return number, opened
        best = max(best * sign, opened * sign) * sign
        worst, top = (low, high) if sign > 0 else (high, low)
        for price in range(opened, worst - sign, -sign):
            if (best - price) * sign >= distance:
                return number, price
        best = max(best * sign, top * sign) * sign
        for price in range(top, close - sign, -sign):
            if (best - price) * sign >= distance:
                return number, close
    return None


@st.composite
def paths(draw: st.DrawFn) -> list[Ticks]:
    last, bars = 10_000, []
    for _ in range(draw(st.integers(1, 12))):
        opened = last + draw(st.integers(-60, 60))
        close = opened + draw(st.integers(-120, 120))
        high = max(opened, close) + draw(st.integers(0, 90))
        low = min(opened, close) - draw(st.integers(0, 90))
        bars.append((opened, high, low, close))
        last = close
    return bars


@settings(max_examples=150, deadline=None)
@given(paths(), st.integers(20, 300), st.sampled_from([1, -1]))
def test_a_trailing_stop_equals_a_walk_along_the_bars(bars: list[Ticks], distance: int, sign: int) -> None:
    decided = (10_000,) * 4  # the distance is a fraction of 100.00, so ticks are exact
    prices = [tuple(tick / 100 for tick in one) for one in [decided, *bars]]
    events = [bar(n, *one) for n, one in enumerate(prices)]
    plan = {0: {"qty": sign, "trail": -sign * distance / 10_000}}
    _, sink = run(Plan(plan), events)

    left = [
        ((f.ts - events[1].start - 1) // 60_000 if f.ts > events[1].start else 0, int(f.price * 100))
        for f in sink.decisions
        if isinstance(f, Fill) and f.reason == "trailing-stop"
    ]
    expected = walk(bars, distance, sign)
    assert [price for _, price in left] == ([] if expected is None else [expected[1]])
    assert SYMBOL
