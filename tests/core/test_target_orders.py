"""Sizes by quantity and risk, take-profit levels, stop entries and expiry, on paper."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.engine import Engine
from agent.core.events import Decision, Event, Fill, Order, OrderStatus, OrderType, OrderUpdate
from tests.support.market import SYMBOL, Plan, bar, config, run

D = Decimal
FLAT = (100, 100, 100, 100)


def trade(
    prices: Sequence[Sequence[float]], targets: dict[int, dict[str, Any]], **sections: Any
) -> tuple[Engine, list[Decision]]:
    events: list[Event] = [bar(minute, *one) for minute, one in enumerate(prices)]
    engine, sink = run(Plan(targets), events, config(**sections))
    return engine, sink.decisions


def fills(decisions: Sequence[Decision]) -> list[tuple[str, float, float]]:
    """Return side, quantity and price of each fill."""
    return [(f.side.value, float(f.qty), float(f.price)) for f in decisions if isinstance(f, Fill)]


# -- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "position"),
    [
        ({"qty": 2.5}, "2.5"),
        ({"qty": D("-0.0019")}, "-0.001"),  # down to the lot
        ({"qty": 0}, "0"),
        ({"risk": 0.005, "stop": -0.01}, "50"),  # 0.5 % of 10,000 is 50; the stop is 1 away
        ({"risk": 0.005, "stop": 0.02}, "-25"),
        # 3 % of 100.01 is 3.0003: the stop is at 97.00, 3.01 away; 100 / 3.01 is 33.222
        ({"risk": 0.01, "stop": -0.03, "limit": 100.01}, "33.222"),
    ],
)
def test_a_position_has_the_wanted_size(target: dict[str, Any], position: str) -> None:
    engine, _ = trade([FLAT, FLAT], {0: target})

    assert engine.portfolio.positions[SYMBOL].qty == D(position)


@pytest.mark.parametrize(
    ("risk", "position"),
    [
        ({"max_position": 0.3}, "30"),  # 30 % of 10,000 at 100, instead of 50
        ({"max_order": 0.2}, "20"),
        ({"max_leverage": 0.4}, "40"),
        ({}, "50"),
    ],
)
def test_risk_limits_bound_a_size_by_risk_and_that_is_counted(risk: dict[str, float], position: str) -> None:
    engine, _ = trade([FLAT, FLAT], {0: {"risk": 0.005, "stop": -0.01}}, risk=risk)

    assert engine.portfolio.positions[SYMBOL].qty == D(position)
    assert engine.counts["targets by risk that risk limits reduce"] == bool(risk)
    assert not engine.risk.refusals


@pytest.mark.parametrize(
    ("first", "second", "position"),
    [
        ({"qty": 10}, {"qty": 10.5}, "10.5"),  # a quantity is exact
        ({"qty": 10}, {"qty": 9.999}, "9.999"),
        ({"weight": 0.1}, {"weight": 0.105}, "10"),  # 5 % more is within `rebalance_band`, 10 %
        ({"weight": 0.1}, {"weight": 0.112}, "11.2"),
    ],
)
def test_a_small_change_is_traded_if_it_is_a_quantity(
    first: dict[str, Any], second: dict[str, Any], position: str
) -> None:
    engine, _ = trade([FLAT, FLAT, FLAT], {0: first, 1: second})

    assert engine.portfolio.positions[SYMBOL].qty == D(position)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(50, 200_000),
    st.floats(0.001, 0.05),
    st.floats(0.002, 0.2),
    st.sampled_from([1, -1]),
)
def test_the_loss_at_the_stop_is_the_fraction_of_equity_up_to_a_lot(
    cents: int, risk: float, distance: float, sign: int
) -> None:
    price = cents / 100
    flat = (price,) * 4
    beyond = (price * (1 - sign * 0.5),) * 4
    target = {"risk": risk, "stop": -sign * distance}
    falls = (price, max(price, beyond[0]), min(price, beyond[0]), beyond[0])
    _, decisions = trade([flat, flat, falls], {0: target}, account={"leverage": 100})

    made = [f for f in decisions if isinstance(f, Fill)]
    if not made:  # less than a lot, or a stop as far as half the price
        return
    [stop] = [o.trigger for o in decisions if isinstance(o, Order) and o.type is OrderType.STOP]
    assert stop is not None
    entry, leaves = made
    loss = (entry.price - leaves.price) * leaves.qty * sign
    lot = abs(entry.price - leaves.price) * D("0.001")
    allowed = D(repr(risk)) * 10_000
    assert leaves.price == stop
    assert allowed - lot - D("1e-6") <= loss <= allowed + D("1e-6")


# -- take-profit levels ------------------------------------------------------------------------------------

LEVELS = [(0.04, 0.5), (0.02, 0.25)]  # 102: a quarter; 104: a half; a quarter stays


def test_levels_close_their_shares_and_leave_one_stop_for_the_rest() -> None:
    bars = [FLAT, FLAT, (100, 103, 100, 103), (103, 105, 103, 105), (100, 100, 97, 97)]
    _, decisions = trade(bars, {0: {"qty": 10, "stop": -0.02, "take_profit": LEVELS}})

    assert fills(decisions) == [
        ("BUY", 10.0, 100.0),
        ("SELL", 2.5, 102.0),
        ("SELL", 5.0, 104.0),
        ("SELL", 2.5, 98.0),
    ]


def test_a_bar_that_reaches_all_levels_fills_them_nearest_first_and_ends_the_stop() -> None:
    whole = [(0.02, 0.5), (0.04, 0.5)]
    _, decisions = trade(
        [FLAT, FLAT, (100, 106, 100, 106)], {0: {"qty": 1, "stop": -0.02, "take_profit": whole}}
    )

    assert fills(decisions)[1:] == [("SELL", 0.5, 102.0), ("SELL", 0.5, 104.0)]
    ended = [u.reason for u in decisions if isinstance(u, OrderUpdate) and u.status is OrderStatus.CANCELLED]
    assert ended == ["position closed"]


def test_a_stop_ends_the_levels() -> None:
    _, decisions = trade(
        [FLAT, FLAT, (100, 106, 97, 106)], {0: {"qty": 1, "stop": -0.02, "take_profit": LEVELS}}
    )

    assert fills(decisions)[1:] == [("SELL", 1.0, 98.0)]


def test_new_levels_replace_the_working_ones_and_the_same_stay() -> None:
    target = {"qty": 10, "take_profit": [(0.02, 0.5), (0.04, 0.5)]}
    other = {"qty": 10, "take_profit": [(0.01, 0.5), (0.04, 0.5)]}
    bars = [FLAT, FLAT, FLAT, (100, 101.5, 100, 101)]
    _, decisions = trade(bars, {0: target, 1: target, 2: other})

    assert fills(decisions)[1:] == [("SELL", 5.0, 101.0)]
    cancelled = [u for u in decisions if isinstance(u, OrderUpdate) and u.status is OrderStatus.CANCELLED]
    assert [u.reason for u in cancelled] == ["replaced by a newer trigger"] * 2


# -- stop entries and expiry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "bars", "made"),
    [
        # a breakout: 102 is reached in the third bar
        ({"qty": 1, "stop_entry": 102}, [FLAT, (101, 103, 101, 103)], [("BUY", 1.0, 102.0)]),
        ({"qty": -1, "stop_entry": 98}, [FLAT, (99, 99, 97, 97)], [("SELL", 1.0, 98.0)]),
        # a gap: at the open
        ({"qty": 1, "stop_entry": 102}, [FLAT, (105, 106, 104, 105)], [("BUY", 1.0, 105.0)]),
        # not reached
        ({"qty": 1, "stop_entry": 102}, [FLAT, (101, 101.9, 101, 101)], []),
        # stop-limit: the gap to 105 is beyond 103, so it rests and is bought at 103 when the price returns
        (
            {"qty": 1, "stop_entry": 102, "limit": 103},
            [FLAT, (105, 106, 104, 105), (105, 105, 102, 104)],
            [("BUY", 1.0, 103.0)],
        ),
        ({"qty": 1, "stop_entry": 102, "limit": 103}, [FLAT, (101, 103, 101, 103)], [("BUY", 1.0, 102.0)]),
        # the price is beyond the trigger already: at once
        ({"qty": 1, "stop_entry": 99}, [FLAT], [("BUY", 1.0, 100.0)]),
    ],
)
def test_a_stop_entry_waits_for_its_trigger(
    target: dict[str, Any], bars: list[tuple[float, ...]], made: list[tuple[str, float, float]]
) -> None:
    _, decisions = trade([FLAT, *bars], {0: target})

    assert fills(decisions) == made


def test_a_repeated_stop_entry_keeps_the_working_order() -> None:
    target = {"qty": 1, "stop_entry": 102, "stop": -0.01}
    _, decisions = trade([FLAT, FLAT, FLAT, (101, 103, 101, 103)], dict.fromkeys(range(3), target))

    assert [o.type for o in decisions if isinstance(o, Order)] == [OrderType.STOP, OrderType.STOP]


@pytest.mark.parametrize(
    ("expire", "made"),
    [("2m", []), ("3m", [("BUY", 1.0, 98.0)]), ("150s", [])],
)
def test_an_entry_expires_after_its_time(expire: str, made: list[tuple[str, float, float]]) -> None:
    # Decided at the end of the first bar; the fourth falls through 98, from two to three minutes later. An
    # expiry within a bar comes before the bar's range
    bars = [FLAT, FLAT, FLAT, (100, 100, 97, 99), FLAT]
    engine, decisions = trade(bars, {0: {"qty": 1, "limit": 98.0, "expire": expire}})

    assert fills(decisions) == made
    ended = [u.reason for u in decisions if isinstance(u, OrderUpdate) and u.status is OrderStatus.CANCELLED]
    assert ended == ["expired"] * (not made)
    assert engine.counts["entries that expired"] == (not made)
