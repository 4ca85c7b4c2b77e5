"""Foresight: chance is rarely taken for knowledge, and knowledge of any reach is found."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from agent.core.events import MINUTE_MS, Fill, Side
from agent.research.evidence import Prices
from agent.research.foresight import FEWEST, foresight

BARS = 6_000


def market(seed: int) -> Prices:
    steps = np.random.default_rng(seed).normal(0, 0.001, BARS)
    return Prices(np.arange(1, BARS + 1, dtype=np.int64) * MINUTE_MS, 100 * np.exp(np.cumsum(steps)))


def trades(price: Prices, wanted: np.ndarray) -> list[Fill]:
    """Fills that keep the position at `wanted`, one coin or none, at each bar."""
    changes = np.flatnonzero(np.diff(wanted.astype(int), prepend=0))
    return [
        Fill(
            f"f{row}", f"o{row}", "BTCUSDT", int(price.ts[row]), int(price.ts[row]), Side.BUY if wanted[row] else Side.SELL,
            Decimal(1), Decimal(100), Decimal(0),
        )
        for row in changes.tolist()
    ]  # fmt: skip


def blocks(seed: int, length: int) -> np.ndarray:
    """In and out of the market at random, `length` bars at a time."""
    drawn = np.random.default_rng(seed).random(BARS // length + 1) < 0.5
    return np.repeat(drawn, length)[:BARS]


@pytest.mark.parametrize("length", [3, 60, 400])
def test_luck_is_rarely_taken_for_knowledge(length: int) -> None:
    guilty = 0
    for seed in range(40):
        price = market(seed)
        found = foresight(trades(price, blocks(seed + 1_000, length)), {"BTCUSDT": price}, seed=seed)
        guilty += found is not None and found.p_value <= 0.01
    assert guilty <= 2


@pytest.mark.parametrize("ahead", [1, 2, 10, 60, 400])
def test_knowledge_of_any_reach_is_found(ahead: int) -> None:
    price = market(7)
    logs = np.log(price.closes)
    later = np.concatenate((logs[ahead:], np.full(ahead, logs[-1])))
    found = foresight(trades(price, later > logs), {"BTCUSDT": price})
    assert found is not None
    assert found.p_value <= 0.01
    assert found.gain > 0
    assert found.example is not None


def test_what_is_long_known_is_no_foresight() -> None:
    price = market(3)
    before = np.concatenate((np.zeros(20), np.diff(np.log(price.closes), n=1)[:-19]))
    found = foresight(trades(price, before > 0), {"BTCUSDT": price})
    assert found is not None
    assert found.p_value > 0.01


def test_few_fills_tell_nothing() -> None:
    price = market(1)
    fills = trades(price, blocks(1, 5))[: FEWEST - 1]
    assert foresight(fills, {"BTCUSDT": price}) is None
