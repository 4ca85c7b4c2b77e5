"""Stops and take-profits of an entry, and the bounds of every fill by its bar."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.core.events import Event, Fill, Gap, Kline, News, Order, OrderStatus, OrderType, OrderUpdate
from agent.core.strategy import Market, Strategy
from tests.support.market import SYMBOL, T0, Plan, bar, config, run

D = Decimal
FLAT = (100, 100, 100, 100)
DOWN, UP = (95, 96, 94, 95), (105, 106, 104, 105)


def trade(
    prices: Sequence[Sequence[float]],
    targets: dict[int, dict[str, Any]],
    minutes: Sequence[int] = (),
    **paper: Any,
) -> list[tuple[str, float, str]]:
    """Return side, price and reason of each fill."""
    events: list[Event] = [
        bar(minute, *one) for minute, one in zip(minutes or range(len(prices)), prices, strict=True)
    ]
    _, sink = run(Plan(targets), events, config(paper=paper))
    return [(f.side.value, float(f.price), f.reason) for f in sink.decisions if isinstance(f, Fill)]


# The first row: decided at 100 and bought at the open, 95. The stop, 100 * 0.98 = 98, lies above the market,
# so it fills at 95. The others: a take-profit at 102 below the market, sold at 105; a short with a stop at
# 102, bought at 105; a short with a take-profit at 98, bought at 95.
@pytest.mark.parametrize(
    ("weight", "gap", "protection", "entry", "leaves"),
    [
        (0.5, DOWN, {"stop": -0.02}, ("BUY", 95.0), ("SELL", 95.0, "stop")),
        (0.5, UP, {"take_profit": 0.02}, ("BUY", 105.0), ("SELL", 105.0, "take-profit")),
        (-0.5, UP, {"stop": 0.02}, ("SELL", 105.0), ("BUY", 105.0, "stop")),
        (-0.5, DOWN, {"take_profit": -0.02}, ("SELL", 95.0), ("BUY", 95.0, "take-profit")),
        (0.5, DOWN, {"stop": -0.02, "take_profit": 0.02}, ("BUY", 95.0), ("SELL", 95.0, "stop")),
    ],
)
@pytest.mark.parametrize("latency", [0, "250ms"])  # at the open; at the close, which is the same price here
@pytest.mark.parametrize("minutes", [(0, 1, 2, 3), (0, 1, 5, 6)])  # with and without missing bars
def test_protection_on_the_wrong_side_of_the_entry_fills_at_the_entry_price(
    weight: float,
    gap: tuple[float, ...],
    protection: dict[str, float],
    entry: tuple[str, float],
    leaves: tuple[str, float, str],
    latency: Any,
    minutes: tuple[int, ...],
) -> None:
    fills = trade([FLAT, FLAT, gap, gap], {1: {"weight": weight, **protection}}, minutes, latency=latency)

    assert fills == [(*entry, ""), leaves]


def test_a_stop_filled_at_the_open_pays_half_the_spread() -> None:
    # Half a spread of 10 bps of 95 is 0.095: bought at 95.095, up to the tick 95.10; sold at 94.905, down to
    # 94.90
    fills = trade([FLAT, DOWN], {0: {"weight": 0.5, "stop": -0.02}}, half_spread_bps=10)

    assert fills == [("BUY", 95.1, ""), ("SELL", 94.9, "stop")]


@pytest.mark.parametrize(
    ("weight", "limit", "stop", "gap", "fills"),
    # the limit fills at its own price; its stop, 98 * 0.99 = 97.02 (102 * 1.01 = 103.02), was passed by the
    # gap: the open
    [
        (0.5, 98.0, -0.01, DOWN, [("BUY", 98.0, ""), ("SELL", 95.0, "stop")]),
        (-0.5, 102.0, 0.01, UP, [("SELL", 102.0, ""), ("BUY", 105.0, "stop")]),
        # without a gap the stop is hit at its trigger
        (0.5, 98.0, -0.01, (100, 100, 96, 97), [("BUY", 98.0, ""), ("SELL", 97.02, "stop")]),
    ],
)
def test_the_stop_of_a_resting_limit_is_never_better_than_the_open(
    weight: float, limit: float, stop: float, gap: tuple[float, ...], fills: list[tuple[str, float, str]]
) -> None:
    assert trade([FLAT, FLAT, gap], {0: {"weight": weight, "limit": limit, "stop": stop}}) == fills


def test_a_partial_entry_is_protected_at_its_own_price() -> None:
    # 10 % of 100 units a bar: 10 of 50 are bought at 95, which uses the bar up. The stop (98) has triggered:
    # it ends the rest of the entry, and sells the 10 at the next open
    bars = [FLAT, (*DOWN, 100.0), (*DOWN, 100_000.0)]
    fills = trade(bars, {0: {"weight": 0.5, "stop": -0.02}}, liquidity="participation")

    assert fills == [("BUY", 95.0, ""), ("SELL", 95.0, "stop")]


def test_a_triggered_stop_fills_before_the_rest_of_its_entry() -> None:
    # Stop 98. 10 of 50 are bought at 95, where the stop is due; the next bar sells these 10 at 95. 105 later
    # is too late for both
    bars = [FLAT, (*DOWN, 100.0), (*DOWN, 100.0), (*UP, 100.0), (*UP, 100.0)]
    fills = trade(bars, {0: {"weight": 0.5, "stop": -0.02}}, liquidity="participation")

    assert fills == [("BUY", 95.0, ""), ("SELL", 95.0, "stop")]


def test_a_stop_hit_during_a_long_entry_ends_the_entry() -> None:
    # 10 a bar of 50 at 100, stop 98: 30 are held when the range reaches 97, whose volume the third part has
    # used up; sold at 97, 10 a bar
    bars = [FLAT, (*FLAT, 100.0), (*FLAT, 100.0), (100, 100, 97, 97, 100.0), *[(97, 97, 97, 97, 100.0)] * 4]
    fills = trade(bars, {0: {"weight": 0.5, "stop": -0.02}}, liquidity="participation")

    assert fills == [("BUY", 100.0, "")] * 3 + [("SELL", 97.0, "stop")] * 3


def test_a_partly_filled_reversal_keeps_the_stop_of_the_old_position() -> None:
    # Long 50 at 100, stop 95. Turned round by a limit at 105, of which 5 fill; the fall to 80 sells the other
    # 45 at 95
    bars = [FLAT, FLAT, FLAT, (100, 106, 100, 100, 50.0), (100, 100, 80, 80, 1e6), (80, 80, 80, 80, 1e6)]
    bars = [(*one, 1e6) if len(one) == 4 else one for one in bars]
    plan = {0: {"weight": 0.5, "stop": -0.05}, 2: {"weight": -0.5, "limit": 105.0, "stop": 0.03}}
    fills = trade(bars, plan, liquidity="participation")

    assert fills[:3] == [("BUY", 100.0, ""), ("SELL", 105.0, ""), ("SELL", 95.0, "stop")]


def test_protection_is_placed_for_a_partly_filled_entry_that_had_none() -> None:
    # 5 of 50.505 at the limit 99; then a take-profit of 3 % of the limit, 101.97: the bar up to 105 sells the
    # 5 there
    bars = [FLAT, (100, 100, 98, 100, 50.0), FLAT, (100, 105, 100, 105, 1e6)]
    bars = [(*one, 1e6) if len(one) == 4 else one for one in bars]
    entry = {"weight": 0.5, "limit": 99.0}
    fills = trade(bars, {0: entry, 2: entry | {"take_profit": 0.03}}, liquidity="participation")

    assert fills == [("BUY", 99.0, ""), ("SELL", 101.97, "take-profit")]


def test_repeating_a_limit_off_the_tick_keeps_the_resting_order() -> None:
    # 98.005 is 98.00 on the tick. Said again on every bar it is the same order, and the low of 97 fills it
    target = {"weight": 0.5, "limit": 98.005}
    bars = [FLAT, FLAT, FLAT, (100, 100, 97, 100), FLAT]

    assert trade(bars, dict.fromkeys(range(4), target))[0] == ("BUY", 98.0, "")


@pytest.mark.parametrize(
    ("price", "stop", "trigger"),
    [(100, 0.1, "110.00"), (100, 0.15, "115.00"), (3, 0.1, "3.30"), (7, 0.07, "7.49")],
)
def test_a_trigger_is_computed_exactly(price: float, stop: float, trigger: str) -> None:
    # 100 * 1.1 is 110.00000000000001 in binary, which was rounded up to 110.01
    flat = (price,) * 4
    _, sink = run(Plan({0: {"weight": -0.5, "stop": stop}}), [bar(n, *flat) for n in range(3)])

    (placed,) = [d for d in sink.decisions if isinstance(d, Order) and d.type is OrderType.STOP]
    assert placed.trigger == D(trigger)


def test_a_new_stop_for_an_unchanged_weight_moves_the_working_stop() -> None:
    # Bought at 100 with a stop at 99. At 110 the stop becomes 110 * 0.99 = 108.9: the fall to 105 is sold
    # there
    bars = [FLAT, FLAT, (100, 110, 100, 110), (110, 110, 105, 105)]
    target = {"weight": 0.5, "stop": -0.01}

    assert trade(bars, {0: target, 2: target}) == [("BUY", 100.0, ""), ("SELL", 108.9, "stop")]


def test_a_moved_stop_is_placed_before_the_old_one_is_cancelled() -> None:
    target = {"weight": 0.5, "stop": -0.01, "take_profit": 0.5}
    bars = [bar(i, *one) for i, one in enumerate([FLAT, FLAT, (100, 110, 100, 110), (110, 110, 109, 110)])]

    engine, sink = run(Plan({0: target, 2: target | {"take_profit": None}}), bars)

    last = [d for d in sink.decisions if isinstance(d, Order | OrderUpdate)][-2:]
    assert isinstance(last[0], Order)
    assert (last[0].type, last[0].trigger) == (OrderType.STOP, D("108.90"))
    assert isinstance(last[1], OrderUpdate)
    assert (last[1].status, last[1].reason) == (OrderStatus.CANCELLED, "replaced by a newer trigger")
    triggers = {w.order.type: w.order.trigger for w in engine.exchange.books[SYMBOL]}
    # the take-profit stays
    assert triggers == {OrderType.STOP: D("108.90"), OrderType.TAKE_PROFIT: D("150.00")}
    assert len({w.order.oco for w in engine.exchange.books[SYMBOL]}) == 1


def test_a_smaller_position_gets_the_stop_of_its_target() -> None:
    # Half of 50 is sold at 100; the stop is then at 100 * 0.95 = 95 for the rest, no longer at 99
    bars = [FLAT, FLAT, FLAT, (100, 100, 96, 97), (97, 97, 94, 94)]

    fills = trade(bars, {0: {"weight": 0.5, "stop": -0.01}, 1: {"weight": 0.25, "stop": -0.05}})

    assert fills == [("BUY", 100.0, ""), ("SELL", 100.0, ""), ("SELL", 95.0, "stop")]


def test_a_target_with_a_stop_protects_an_unprotected_position() -> None:
    bars = [FLAT, FLAT, (100, 100, 94, 94)]

    fills = trade(bars, {0: {"weight": 0.5}, 1: {"weight": 0.5, "stop": -0.05}})

    assert fills == [("BUY", 100.0, ""), ("SELL", 95.0, "stop")]


def test_a_working_entry_attaches_the_newer_stop() -> None:
    target = {"weight": 0.5, "limit": 98.0}
    bars = [FLAT, FLAT, (99, 99, 97.5, 98), (98, 98, 90, 90)]

    fills = trade(bars, {0: target | {"stop": -0.01}, 1: target | {"stop": -0.05}})

    assert fills == [("BUY", 98.0, ""), ("SELL", 93.1, "stop")]  # 98 * 0.95


def test_a_working_entry_keeps_the_stop_of_the_existing_position() -> None:
    # 25 are held with a stop at 95; a limit at 80 for more has its stop at 40. The fall to 94 is sold at 95,
    # before the limit
    more = {"weight": 0.5, "limit": 80.0, "stop": -0.5}
    bars = [FLAT, FLAT, FLAT, FLAT, (100, 100, 94, 94)]

    fills = trade(bars, {0: {"weight": 0.25, "stop": -0.05}, 1: more, 2: more, 3: more})

    assert fills == [("BUY", 100.0, ""), ("SELL", 95.0, "stop")]


def test_a_stop_moved_inside_a_bar_is_never_better_than_its_open() -> None:
    """Half a minute into a bar that opened at 95, the mark is 100: the trigger, 99, lies above the open."""

    class Mover(Plan):
        def on_news(self, news: News, market: Market) -> None:
            self.target(SYMBOL, weight=0.5, stop=-0.01)

    moment = T0 + 150_000
    events = [*(bar(i, *FLAT) for i in range(2)), News("n", moment, moment, "BTC"), bar(2, *DOWN)]

    _, sink = run(Mover({0: {"weight": 0.5, "stop": -0.5}}), events)

    assert [float(f.price) for f in sink.decisions if isinstance(f, Fill)] == [100.0, 95.0]


# -- the invariant -------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.floats(-0.06, 0.06),  # from the close before to the open
        st.floats(-0.03, 0.03),  # from the open to the close
        st.floats(0, 0.02),  # wicks
        st.floats(0, 0.02),
        st.sampled_from([0.0, 1.0, 40.0, 1e6]),  # volume
        st.sampled_from([0, 0, 0, 0, 3]),  # bars that are missing before
    ),
    min_size=8,
    max_size=40,
)
signed = st.floats(0.001, 0.05)
wishes = st.lists(
    st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {"weight": st.sampled_from([-2.0, -0.5, 0.0, 0.5, 0.52, 2.0])},
            optional={"stop": signed, "take_profit": signed, "limit": st.floats(-0.03, 0.03)},
        ),
    ),
    min_size=40,
    max_size=40,
)


def tape(moves: Sequence[tuple[float, float, float, float, float, int]]) -> list[Event]:
    events: list[Event] = []
    minute, close = 0, 100.0
    for gap, body, upper, lower, volume, missing in moves:
        if missing and events:
            start, end = T0 + minute * 60_000, T0 + (minute + missing) * 60_000
            events.append(Gap(SYMBOL, 60_000, start, end, end + 60_000, end))
            minute += missing
        opened = round(close * (1 + gap), 2)
        close = round(opened * (1 + body), 2)
        high, low = max(opened, close) * (1 + upper), min(opened, close) * (1 - lower)
        events.append(bar(minute, opened, round(high, 2), round(low, 2), close, volume))
        minute += 1
    return events


class Wishful(Strategy):
    def __init__(self, wanted: Sequence[dict[str, float] | None]) -> None:
        super().__init__()
        self.wanted = list(wanted)

    def on_kline(self, kline: Kline, market: Market) -> None:
        wish = self.wanted.pop(0) if self.wanted else None
        if wish is None:
            return
        side = -1 if wish["weight"] < 0 else 1
        more = {
            name: wish[name] * side * (-1 if name == "stop" else 1)
            for name in ("stop", "take_profit")
            if name in wish
        }
        if "limit" in wish:
            more["limit"] = kline.close * (1 + wish["limit"])
        self.target(SYMBOL, weight=wish["weight"], **more)


def costly(latency: Any, slippage: str, liquidity: str, fill: str) -> Config:
    return config(
        paper={
            "latency": latency,
            "slippage": slippage,
            "liquidity": liquidity,
            "fill": fill,
            "half_spread_bps": 2,
            "slippage_bps": 3,
            "impact": 0.5,
        },
        account={"leverage": 5},
    )


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    steps,
    wishes,
    st.sampled_from([0, "250ms", "90s"]),
    st.sampled_from(["none", "fixed", "square_root"]),
    st.sampled_from(["infinite", "participation"]),
    st.sampled_from(["open", "close"]),
)
def test_every_taker_fill_lies_within_its_bar_and_costs(
    moves: Any, wanted: Any, latency: Any, slippage: str, liquidity: str, fill: str
) -> None:
    """Costs: half a spread of 2 bps, slippage of 3 bps or half the bar's range, rounding to 0.01."""
    events = tape(moves)
    of = {event.available_at: event for event in events if isinstance(event, Kline)}

    _, sink = run(Wishful(wanted), events, costly(latency, slippage, liquidity, fill))

    for one in sink.decisions:
        if isinstance(one, Fill) and not one.maker:
            met = of[one.available_at]
            impact = {"none": 0.0, "fixed": met.high * 3e-4, "square_root": 0.5 * (met.high - met.low)}[
                slippage
            ]
            cost = met.high * 2e-4 + impact + 0.01 + 1e-9
            assert met.low - cost <= float(one.price) <= met.high + cost, (one, met)
