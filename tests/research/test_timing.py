"""The timing test rarely takes luck for knowledge, and finds knowledge of any horizon."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from agent.core.events import MINUTE_MS, Fill, Side
from agent.research.assessment import ClosePrices
from agent.research.timing_test import MIN_FILLS, timing_test

BARS = 6_000


def market(seed: int) -> ClosePrices:
    steps = np.random.default_rng(seed).normal(0, 0.001, BARS)
    return ClosePrices(np.arange(1, BARS + 1, dtype=np.int64) * MINUTE_MS, 100 * np.exp(np.cumsum(steps)))


def trades(price: ClosePrices, wanted: np.ndarray) -> list[Fill]:
    """Fills that keep the position at `wanted`, one coin or none, at each bar."""

    def fill(row: int) -> Fill:
        ts, side = int(price.ts[row]), Side.BUY if wanted[row] else Side.SELL
        return Fill(f"f{row}", f"o{row}", "BTCUSDT", ts, ts, side, Decimal(1), Decimal(100), Decimal(0))

    return [fill(row) for row in np.flatnonzero(np.diff(wanted.astype(int), prepend=0)).tolist()]


def blocks(seed: int, length: int) -> np.ndarray:
    """Random positions, one coin or none, that last `length` bars."""
    drawn = np.random.default_rng(seed).random(BARS // length + 1) < 0.5
    return np.repeat(drawn, length)[:BARS]


@pytest.mark.parametrize("length", [3, 60, 400])
def test_luck_is_rarely_taken_for_knowledge(length: int) -> None:
    significant = 0
    for seed in range(40):
        price = market(seed)
        found = timing_test(trades(price, blocks(seed + 1_000, length)), {"BTCUSDT": price}, seed=seed)
        significant += found is not None and found.p_value <= 0.01
    assert significant <= 2


@pytest.mark.parametrize("ahead", [1, 2, 10, 60, 400])
def test_knowledge_of_any_reach_is_found(ahead: int) -> None:
    price = market(7)
    logs = np.log(price.closes)
    later = np.concatenate((logs[ahead:], np.full(ahead, logs[-1])))
    found = timing_test(trades(price, later > logs), {"BTCUSDT": price})
    assert found is not None
    assert found.p_value <= 0.01
    assert found.gain > 0
    assert found.example is not None


def test_following_the_past_is_not_knowledge() -> None:
    price = market(3)
    before = np.concatenate((np.zeros(20), np.diff(np.log(price.closes), n=1)[:-19]))
    found = timing_test(trades(price, before > 0), {"BTCUSDT": price})
    assert found is not None
    assert found.p_value > 0.01


def test_few_fills_give_no_result() -> None:
    price = market(1)
    fills = trades(price, blocks(1, 5))[: MIN_FILLS - 1]
    assert timing_test(fills, {"BTCUSDT": price}) is None
