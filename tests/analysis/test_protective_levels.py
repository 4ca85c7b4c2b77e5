"""Stops and take-profits in the price chart: from their order until it is filled, cancelled or replaced."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from agent.analysis.report.protective_levels import MOST, ProtectiveLevels
from agent.analysis.report.report_data import ProtectiveLevel
from agent.core.events import Order, OrderStatus, OrderType, OrderUpdate, Side


def order(number: int, kind: OrderType, trigger: D | None, ts: int) -> Order:
    return Order(f"o{number}", "BTCUSDT", ts, Side.SELL, kind, D(1), trigger=trigger, reduce_only=True)


def update(number: int, status: OrderStatus, ts: int) -> OrderUpdate:
    return OrderUpdate(f"o{number}", "BTCUSDT", ts, ts, status)


def test_a_level_lasts_from_its_order_to_its_final_state() -> None:
    levels = ProtectiveLevels()
    levels.add(order(1, OrderType.STOP, D("95.5"), 10))
    levels.add(order(2, OrderType.TAKE_PROFIT, D(120), 10))
    levels.update(update(1, OrderStatus.NEW, 11))
    levels.update(update(1, OrderStatus.PARTIALLY_FILLED, 12))
    levels.update(update(1, OrderStatus.CANCELLED, 20))
    levels.add(order(3, OrderType.STOP, D(97), 20))
    levels.update(update(3, OrderStatus.FILLED, 30))
    assert levels.notes() == []
    assert levels.by_symbol() == {
        "BTCUSDT": [
            ProtectiveLevel(10, 20, 95.5, "stop"),
            ProtectiveLevel(10, None, 120.0, "take profit"),
            ProtectiveLevel(20, 30, 97.0, "stop"),
        ]
    }


@pytest.mark.parametrize("kind", [OrderType.MARKET, OrderType.LIMIT, OrderType.TRAILING_STOP])
def test_other_orders_have_no_level(kind: OrderType) -> None:
    levels = ProtectiveLevels()
    levels.add(order(1, kind, D(95), 10))
    levels.update(update(1, OrderStatus.FILLED, 20))
    assert levels.by_symbol() == {}


def test_of_very_many_levels_the_latest_are_kept() -> None:
    levels = ProtectiveLevels()
    for number in range(3 * MOST):
        levels.add(order(number, OrderType.STOP, D(95), number))
        levels.update(update(number, OrderStatus.CANCELLED, number + 1))
    kept = levels.by_symbol()["BTCUSDT"]
    assert [one.start for one in kept] == list(range(2 * MOST, 3 * MOST))
    assert all(one.end == one.start + 1 for one in kept)
    assert levels.notes() == ["Of the 9,000 stops and take-profits of BTCUSDT, the latest 3,000 are drawn."]
