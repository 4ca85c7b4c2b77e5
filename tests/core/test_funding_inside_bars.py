"""Funding stamps strictly inside a bar apply after the fills at its open and before its later events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agent.core.engine import Engine
from agent.core.events import HOUR_MS, Event, Fill, Funding, FundingPayment, Gap, Kline
from agent.core.sinks import ListSink
from agent.data.merge import merge
from tests.support.market import SYMBOL, T0, Plan, config

RATE = 0.001


def pay(
    hours: int,
    prices: Sequence[Sequence[float]],
    stamps: Sequence[float],
    plan: dict[int, dict[str, Any]],
    gap: int = 0,
    **paper: Any,
) -> list[tuple[float, float]]:
    """Return hour and amount of each payment at a rate of 0.1 %; `gap` bars are missing after the second."""
    interval = hours * HOUR_MS
    bars: list[Event] = []
    for number, (o, h, low, c) in enumerate(prices):
        start = T0 + (number + (gap if number >= 2 else 0)) * interval
        if gap and number == 2:
            bars.append(Gap(SYMBOL, interval, T0 + 2 * interval, start, start + interval, start))
        bars.append(Kline(SYMBOL, interval, start, start + interval, start + interval, o, h, low, c, 1e9))
    funding = [Funding(SYMBOL, T0 + int(hour * HOUR_MS), T0 + int(hour * HOUR_MS), RATE) for hour in stamps]
    sink = ListSink()
    settings = config(
        market={"symbols": [SYMBOL], "interval": interval}, paper=paper, risk={"stale_after": "1000d"}
    )
    engine = Engine(settings, Plan(plan), sink, run_id="r")
    for event in merge([bars, funding]):
        engine.handle(event)
    engine.finish()
    return [
        ((d.ts - T0) / HOUR_MS, round(float(d.amount), 9))
        for d in sink.decisions
        if isinstance(d, FundingPayment)
    ]


FLAT = (100, 100, 100, 100)


def test_a_position_opened_at_a_daily_bars_open_pays_at_its_stamps() -> None:
    # Bought at the open of the second day, 00:00: 50 * 100 at 08:00 and 16:00 of that day is 5 each, and
    # again at its close (24:00, the boundary, at the close); the stamps of the first day found no position.
    assert pay(24, [FLAT, FLAT], [8, 16, 24, 32, 40, 48], {0: {"weight": 0.5}}) == [
        (32, -5.0),
        (40, -5.0),
        (48, -5.0),
    ]


def test_a_position_closed_at_a_daily_bars_open_pays_no_further_funding() -> None:
    # Held through day two, sold at the open of day three: 08:00 of day three is free
    plan = {0: {"weight": 0.5}, 1: {"weight": 0.0}}
    assert pay(24, [FLAT] * 3, [32, 40, 48, 56, 64], plan) == [(32, -5.0), (40, -5.0), (48, -5.0)]


def test_funding_inside_a_bar_is_booked_before_a_stop_in_it() -> None:
    # When the stop at 90 was hit can't be known: events inside a bar come after its stamps, so the position
    # pays; at the open, 100
    assert pay(24, [FLAT, (100, 100, 80, 85)], [32], {0: {"weight": 0.5, "stop": -0.1}}) == [(32, -5.0)]


def test_funding_inside_a_bar_uses_the_bars_open() -> None:
    # 50 units * 110 (the open; the close before was 100, the one after is 130) * 0.1 %
    assert pay(24, [FLAT, FLAT, (110, 130, 110, 130)], [56], {0: {"weight": 0.5}}) == [(56, -5.5)]


def test_an_entry_at_the_close_pays_no_funding_inside_the_bar() -> None:
    assert pay(24, [FLAT, FLAT, FLAT], [32, 56], {0: {"weight": 0.5}}, latency="250ms") == [(56, -5.0)]


def test_a_short_position_receives_funding() -> None:
    assert pay(24, [FLAT, FLAT], [32], {0: {"weight": -0.5}}) == [(32, 5.0)]


@pytest.mark.parametrize(
    ("hours", "stamps", "paid"),
    [(12, [8, 12, 16, 24], [16, 24]), (4, [1, 2, 3, 4, 5, 6, 7, 8], [5, 6, 7, 8])],
)
def test_funding_inside_bars_of_other_lengths(hours: int, stamps: list[int], paid: list[int]) -> None:
    # Bought at the open of the second bar
    assert pay(hours, [FLAT, FLAT], stamps, {0: {"weight": 0.5}}) == [(hour, -5.0) for hour in paid]


def test_funding_in_missing_bars_applies_to_the_earlier_position() -> None:
    # Two 4-hour bars, three missing (08:00 to 20:00), then one. Sold at the open after the gap, 20:00. The
    # stamps at 09:00 and 13:00 lie strictly inside of missing bars: still held, at the last mark; 21:00 is
    # after the sale.
    plan = {0: {"weight": 0.5}, 1: {"weight": 0.0}}
    assert pay(4, [FLAT, FLAT, (110, 110, 110, 110)], [9, 13, 21], plan, gap=3) == [(9, -5.0), (13, -5.0)]


def test_funding_after_the_last_bar_is_booked_at_the_end() -> None:
    assert pay(4, [FLAT, FLAT], [5, 9], {0: {"weight": 0.5}}) == [(5, -5.0), (9, -5.0)]


def test_funding_is_booked_in_order() -> None:
    sink = ListSink()
    engine = Engine(config(), Plan({0: {"weight": 0.5}}), sink, run_id="r")
    start = T0
    for number in range(3):
        engine.handle(Kline(SYMBOL, 60_000, start, start + 60_000, start + 60_000, 100, 100, 100, 100, 1e9))
        start += 60_000
        for offset in (20_000, 40_000):
            engine.handle(Funding(SYMBOL, start + offset, start + offset, RATE * (number + 1)))
    engine.finish()
    kinds = [type(d) for d in sink.decisions if isinstance(d, Fill | FundingPayment)]
    assert kinds == [Fill, *[FundingPayment] * 6]
    rates = [float(d.rate) for d in sink.decisions if isinstance(d, FundingPayment)]
    assert rates == [0.001, 0.001, 0.002, 0.002, 0.003, 0.003]
