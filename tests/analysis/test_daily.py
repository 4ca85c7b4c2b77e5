"""Days, and what each brought by symbol."""

from __future__ import annotations

from decimal import Decimal as D

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.daily import Closes, Days, by_day, pnl_of, returns_of
from agent.analysis.trades import Account, TradeBook
from agent.core.events import DAY_MS, HOUR_MS, Fill, FundingPayment, Side

DAY0 = 19_723  # 2024-01-01
START = DAY0 * DAY_MS


def hours(*values: float) -> tuple[np.ndarray, np.ndarray]:
    return START + np.arange(1, len(values) + 1) * HOUR_MS, np.array(values)


def test_what_closes_at_midnight_ends_its_day() -> None:
    days = by_day(*hours(*range(1, 50)))
    assert days.day.tolist() == [DAY0, DAY0 + 1, DAY0 + 2]
    assert days.value.tolist() == [24, 48, 49]


def test_returns_begin_at_the_capital_and_end_with_it() -> None:
    days = Days(np.arange(4), np.array([110.0, 55.0, 0.0, 5.0]))
    assert returns_of(days, 100.0).value == pytest.approx([0.1, -0.5, -1.0, 0.0])


def test_a_day_without_a_value_has_the_one_before() -> None:
    days = Days(np.array([3, 5]), np.array([1.0, 2.0]))
    assert np.array_equal(days.at(np.array([2, 3, 4, 5, 9])), [np.nan, 1, 1, 2, 2], equal_nan=True)


@given(
    st.lists(
        st.tuples(st.integers(1, 140), st.sampled_from([-2, -1, 1, 3]), st.integers(1, 200), st.booleans()),
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_days_add_up_to_what_the_ledger_says(rows: list[tuple[int, int, int, bool]]) -> None:
    """Whatever is traded and paid, the sum over days is the account's profit at the last close."""
    closes = Closes(*hours(*(100.0 + np.arange(144) % 7)))
    moves: list[Fill | FundingPayment] = []
    for hour, qty, price, funding in sorted(rows):
        ts = START + hour * HOUR_MS
        if funding:
            moves.append(FundingPayment("X", ts, D(0), D(qty), D(price), D(qty) / 8))
        else:
            side = Side.BUY if qty > 0 else Side.SELL
            moves.append(Fill("", "", "X", ts, ts, side, D(abs(qty)), D(price), D("0.25")))
    book = TradeBook()
    for move in moves:
        book.add_funding(move) if isinstance(move, FundingPayment) else book.add(move)
    daily = pnl_of(moves, closes, DAY0 + np.arange(6))
    account = book.accounts.get("X", Account())
    assert daily.sum() == pytest.approx(float(account.pnl(D(str(closes.price[-1])))), abs=1e-6)
