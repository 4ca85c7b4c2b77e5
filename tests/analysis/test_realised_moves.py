"""Hit rates of calls against the price moves after them, derived by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agent.analysis.daily import Closes
from agent.analysis.realised_moves import (
    ALL,
    BEARISH,
    BULLISH,
    DirectionalCall,
    HitRate,
    Outcome,
    directional_call,
    hit_rate,
    moves_of_run,
    wilson,
)
from agent.core.events import HOUR_MS, MINUTE_MS, AssetSentiment, Sentiment

T0 = 1_704_067_200_000


def call(at: int, *, bullish: bool = True, confidence: float = 0.75, name: str = "") -> DirectionalCall:
    return DirectionalCall(name or f"h{at}", "BTCUSDT", bullish, confidence, T0 + at * MINUTE_MS)


def closes(*prices: float, every: int = 1) -> dict[str, Closes]:
    """Prices at T0 and each `every` minutes later."""
    ts = T0 + np.arange(len(prices), dtype=np.int64) * every * MINUTE_MS
    return {"BTCUSDT": Closes(ts, np.array(prices))}


@pytest.mark.parametrize(
    ("rate", "count", "low", "high"),
    [
        # z² = 3.8415: (.5 + 3.8415 / 20 ± 1.96 sqrt(.025 + 3.8415 / 400)) / 1.38415
        (0.5, 10, 0.2366, 0.7634),
        (0.0, 10, 0.0, 0.2775),  # z² / (n + z²)
        (1.0, 10, 0.7225, 1.0),
        (0.5, 400, 0.4512, 0.5488),
    ],
)
def test_the_interval_is_wilsons(rate: float, count: int, low: float, high: float) -> None:
    assert wilson(rate, count) == pytest.approx((low, high), abs=1e-4)


def test_the_rate_counts_calls_and_its_interval_headlines() -> None:
    rows = [Outcome("a", True, 0.75, True), Outcome("a", True, 0.75, True), Outcome("b", False, 0.5, False)]
    found = hit_rate(rows)
    assert (found.calls, found.headlines, found.rate) == (3, 2, pytest.approx(2 / 3))
    assert (found.low, found.high) == pytest.approx(wilson(2 / 3, 2))
    assert found.confidence == pytest.approx(2 / 3)
    assert found.brier == pytest.approx((0.0625 + 0.0625 + 0.25) / 3)
    assert hit_rate([]) == HitRate(0, 0)


def test_an_call_for_a_symbol_is_that_of_its_own_asset() -> None:
    sentiment = Sentiment(
        "n",
        T0,
        T0,
        0.7,
        0.2,
        0.1,
        assets=(AssetSentiment("ETH", 0.1, 0.1, 0.8), AssetSentiment("SOL", *[1 / 3] * 3)),
    )
    assert directional_call(sentiment, "BTCUSDT") == DirectionalCall("n", "BTCUSDT", False, 0.7, T0)
    assert directional_call(sentiment, "ETHUSDT") == DirectionalCall("n", "ETHUSDT", True, 0.8, T0)
    assert directional_call(sentiment, "SOLUSDT") is None
    assert directional_call(Sentiment("n", T0, T0, 0.7, 0.2, 0.1, abstained=True), "BTCUSDT") is None


@pytest.mark.parametrize(
    ("given", "prices", "hits", "counts"),
    [
        (call(0), [100, 101, 102, 103], [True], (0, 0, 0)),
        (call(0, bullish=False), [100, 101, 102, 103], [False], (0, 0, 0)),
        (call(1), [100, 105, 104, 103], [False], (0, 0, 0)),  # the rise came before
        (call(0), [100, 90, 100, 103], [], (1, 0, 0)),
        (call(2), [100, 101, 102, 103], [], (0, 0, 1)),  # the run ends before its horizon
        (call(-5), [100, 101, 102, 103], [], (0, 1, 0)),
    ],
    ids=["up", "not down", "before", "unmoved", "pending", "no price before"],
)
def test_the_move_is_from_the_last_close_at_the_call_to_the_last_at_its_horizon(
    given: DirectionalCall, prices: list[float], hits: list[bool], counts: tuple[int, int, int]
) -> None:
    found = moves_of_run([given], closes(*prices), MINUTE_MS, 2 * MINUTE_MS)
    assert [found.sides[ALL].calls, found.sides[ALL].rate] == [len(hits), hits[0] if hits else None]
    assert (found.unmoved, found.unpriced, found.pending) == counts


def test_a_close_that_is_too_old_is_not_the_last_price() -> None:
    gap = {"BTCUSDT": Closes(np.array([T0, T0 + HOUR_MS]), np.array([100.0, 110.0]))}
    found = moves_of_run([call(3), call(57, name="late")], gap, MINUTE_MS, 3 * MINUTE_MS)
    assert (found.unpriced, found.sides[ALL].calls) == (2, 0)


def test_bars_longer_than_the_horizon_have_no_move_inside_them() -> None:
    found = moves_of_run([call(5)], closes(100, 110, every=60), HOUR_MS, 30 * MINUTE_MS)
    assert (found.unpriced, found.unmoved) == (1, 0)


def test_a_symbol_without_prices_is_counted() -> None:
    other = DirectionalCall("x", "ETHUSDT", True, 0.9, T0)
    assert moves_of_run([other], closes(1, 2, 3), MINUTE_MS, MINUTE_MS).unpriced == 1


def test_sides_are_counted_apart() -> None:
    given = [call(0), call(1, bullish=False), call(2, bullish=False)]
    found = moves_of_run(given, closes(100, 101, 102, 101, 100), MINUTE_MS, MINUTE_MS)
    assert {side: (one.calls, one.rate) for side, one in found.sides.items()} == {
        ALL: (3, pytest.approx(2 / 3)),
        BULLISH: (1, 1.0),
        BEARISH: (2, 0.5),
    }
