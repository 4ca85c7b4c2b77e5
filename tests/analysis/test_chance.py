"""Tests of timing: skill has a small p-value, luck has not."""

from __future__ import annotations

import numpy as np
import pytest

from agent.analysis.chance import HeldTrades, random_entries, shifted_signals


def walk(n: int, seed: int, drift: float = 0.0) -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(drift, 0.01, n)))


def held_trades(
    closes: np.ndarray, entries: list[int], held: int, *, weight: float = 0.5, cost: float = 0.001
) -> HeldTrades:
    starts = np.array(entries, np.int64)
    count = len(entries)
    return HeldTrades(closes, starts, starts + held, np.full(count, weight), np.full(count, cost))


def perfect_entries(closes: np.ndarray, held: int) -> list[int]:
    """Enter before every rise, which takes knowledge of the future."""
    return [
        start for start in range(0, len(closes) - held, held) if closes[start + held] > closes[start] * 1.01
    ]


@pytest.mark.parametrize("test", [random_entries, shifted_signals])
def test_perfect_timing_is_significant(test: type) -> None:
    closes = walk(3_000, 1)
    found = test([held_trades(closes, perfect_entries(closes, 10), 10)], draws=500)
    assert found.p_value < 0.01
    assert found.value > found.high


@pytest.mark.parametrize("test", [random_entries, shifted_signals])
def test_random_long_trades_in_a_rising_market_are_not_significant(test: type) -> None:
    closes = walk(3_000, 2, drift=0.002)
    entries = sorted(np.random.default_rng(3).choice(290, 60, replace=False) * 10)
    found = test([held_trades(closes, list(entries), 10)], draws=500)
    assert found.value > 0.2
    assert found.median > 0.2  # random times would have earned as much
    assert found.p_value > 0.05


@pytest.mark.slow
def test_p_values_of_random_trades_are_uniform() -> None:
    values = []
    for seed in range(200):
        closes = walk(400, seed)
        entries = sorted(np.random.default_rng(seed + 1_000).choice(39, 12, replace=False) * 10)
        found = random_entries([held_trades(closes, list(entries), 10)], draws=99, seed=seed)
        assert found is not None
        values.append(found.p_value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.06)


def test_trades_keep_their_cost_and_never_overlap() -> None:
    """At constant prices all placements cost the same. If every bar is held, only the order can change."""
    flat = np.full(101, 50.0)
    found = random_entries(
        [held_trades(flat, list(range(0, 100, 10)), 10, weight=-0.5, cost=0.002)], draws=50
    )
    assert found is not None
    assert found.value == pytest.approx(0.999**10 - 1)
    assert found.low == pytest.approx(found.high)
    rising = np.exp(0.01 * np.arange(101))
    whole = random_entries([held_trades(rising, list(range(0, 100, 10)), 10, weight=1.0, cost=0.0)], draws=50)
    assert whole is not None
    assert whole.value == pytest.approx(np.e - 1)
    assert whole.low == pytest.approx(whole.high) == pytest.approx(np.e - 1)


def test_shifted_trades_wrap_around_at_the_end() -> None:
    closes = walk(200, 5)
    one = shifted_signals([held_trades(closes, [0], 199, weight=1.0, cost=0.0)], draws=100)
    assert one is not None
    # The trade lasts the whole time, so its start does not matter
    assert one.low == pytest.approx(one.high) == pytest.approx(closes[-1] / closes[0] - 1)


def test_without_trades_there_is_no_result() -> None:
    assert random_entries([held_trades(walk(10, 0), [], 1)]) is None
