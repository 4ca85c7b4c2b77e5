"""Buy-and-hold from the same bars."""

from __future__ import annotations

import numpy as np
import pytest

from agent.analysis.benchmark import BuyAndHold
from agent.core.events import MINUTE_MS


def hold_of(*bars: tuple[str, int, float], symbols: tuple[str, ...] = ("A", "B")) -> BuyAndHold:
    hold = BuyAndHold(symbols, 100.0, MINUTE_MS)
    for symbol, minute, close in bars:
        hold.add(symbol, minute * MINUTE_MS, close)
    return hold


@pytest.mark.parametrize(
    ("bars", "final"),
    [
        ([("A", 1, 10), ("B", 1, 5), ("A", 2, 20), ("B", 2, 5)], 150.0),
        # B begins later: its half waits as cash
        ([("A", 1, 10), ("B", 2, 5), ("A", 3, 20), ("B", 3, 10)], 200.0),
        # B misses bars: its last close stands
        ([("A", 1, 10), ("B", 1, 5), ("A", 2, 20), ("A", 3, 20)], 150.0),
        ([("A", 1, 10), ("A", 2, 20)], 150.0),  # B never began
    ],
)
def test_equal_weight(bars: list[tuple[str, int, float]], final: float) -> None:
    assert hold_of(*bars).portfolio.summary().final == pytest.approx(final)


def test_each_symbol_alone_starts_at_its_own_first_close() -> None:
    hold = hold_of(("A", 1, 10), ("B", 5, 8), ("A", 9, 5), ("B", 9, 16))
    finals = {symbol: curve.summary().final for symbol, curve in hold.symbols.items()}
    assert finals == {"A": 50.0, "B": 200.0}
    assert hold.last_closes == {"A": 5.0, "B": 16.0}
    assert hold.prices("A") == ([MINUTE_MS, 9 * MINUTE_MS], [10.0, 5.0])


def test_long_history_in_blocks_equals_the_plain_computation() -> None:
    rng = np.random.default_rng(3)
    closes = np.exp(np.cumsum(rng.normal(0, 0.01, (20_000, 2)), axis=0))
    present = rng.random((20_000, 2)) > 0.2
    present[0] = True
    hold = BuyAndHold(("A", "B"), 100.0, MINUTE_MS)
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
