"""The buy-and-hold benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from agent.analysis.benchmark import BuyAndHoldBenchmark, hold_returns
from agent.analysis.daily import Closes
from agent.core.events import DAY_MS, MINUTE_MS


def hold_of(*bars: tuple[str, int, float], symbols: tuple[str, ...] = ("A", "B")) -> BuyAndHoldBenchmark:
    hold = BuyAndHoldBenchmark(symbols, 100.0, MINUTE_MS)
    for symbol, minute, close in bars:
        hold.add(symbol, minute * MINUTE_MS, close)
    return hold


@pytest.mark.parametrize(
    ("bars", "final"),
    [
        ([("A", 1, 10), ("B", 1, 5), ("A", 2, 20), ("B", 2, 5)], 150.0),
        # B begins later: its half is in cash until then
        ([("A", 1, 10), ("B", 2, 5), ("A", 3, 20), ("B", 3, 10)], 200.0),
        # B misses bars: its last close counts
        ([("A", 1, 10), ("B", 1, 5), ("A", 2, 20), ("A", 3, 20)], 150.0),
        ([("A", 1, 10), ("A", 2, 20)], 150.0),  # B has no bars
    ],
)
def test_the_portfolio_has_equal_weights(bars: list[tuple[str, int, float]], final: float) -> None:
    assert hold_of(*bars).portfolio.summary().final == pytest.approx(final)


def test_each_symbol_alone_starts_at_its_own_first_close() -> None:
    hold = hold_of(("A", 1, 10), ("B", 5, 8), ("A", 9, 5), ("B", 9, 16))
    assert hold.symbol_returns == {"A": -0.5, "B": 1.0}
    assert hold.last_closes == {"A": 5.0, "B": 16.0}


def test_hold_returns_compound_to_the_portfolio() -> None:
    ts, prices = np.arange(1, 5) * DAY_MS, {"A": np.array([10.0, 20, 15, 30]), "B": np.array([5.0, 4, 8])}
    closes = {"A": Closes(ts, prices["A"]), "B": Closes(ts[1:], prices["B"])}  # B begins a day later
    hold = BuyAndHoldBenchmark(("A", "B"), 100.0, DAY_MS)
    hold.extend(closes)
    returns = hold_returns(list(closes.values()), ts)
    assert returns[:2] == pytest.approx([0.0, 0.5])
    assert 100 * np.prod(1 + returns) == pytest.approx(hold.portfolio.summary().final)


def test_a_long_history_folded_in_blocks_equals_the_direct_computation() -> None:
    rng = np.random.default_rng(3)
    closes = np.exp(np.cumsum(rng.normal(0, 0.01, (20_000, 2)), axis=0))
    present = rng.random((20_000, 2)) > 0.2
    present[0] = True
    hold = BuyAndHoldBenchmark(("A", "B"), 100.0, MINUTE_MS)
    for minute, (row, there) in enumerate(zip(closes, present, strict=True), start=1):
        for symbol, close, has_bar in zip("AB", row, there, strict=True):
            if has_bar:
                hold.add(symbol, minute * MINUTE_MS, close)
    latest = np.maximum.accumulate(np.where(present, np.arange(20_000)[:, None], 0), axis=0)
    held = np.take_along_axis(closes, latest, axis=0)
    equity = (100 * held / held[0]).mean(axis=1)[present.any(axis=1)]
    summary = hold.portfolio.summary()
    assert summary.periods == present.any(axis=1).sum()
    assert summary.final == pytest.approx(equity[-1])
    assert summary.drawdown.depth == pytest.approx((equity / np.maximum.accumulate(equity) - 1).min())
