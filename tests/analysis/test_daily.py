"""Daily series: values, returns, and profit by symbol."""

from __future__ import annotations

from decimal import Decimal as D

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.daily import Closes, DailyValues, daily_pnl, daily_returns, last_of_day
from agent.analysis.trades import SymbolTotals, TradeBook
from agent.core.events import DAY_MS, HOUR_MS, Fill, FundingPayment, Side

DAY0 = 19_723  # 2024-01-01
START = DAY0 * DAY_MS


def hours(*values: float) -> tuple[np.ndarray, np.ndarray]:
    return START + np.arange(1, len(values) + 1) * HOUR_MS, np.array(values)


def test_a_close_at_midnight_belongs_to_the_day_that_ends() -> None:
    days = last_of_day(*hours(*range(1, 50)))
    assert days.day.tolist() == [DAY0, DAY0 + 1, DAY0 + 2]
    assert days.value.tolist() == [24, 48, 49]


def test_returns_start_from_the_capital_and_are_zero_once_it_is_lost() -> None:
    days = DailyValues(np.arange(4), np.array([110.0, 55.0, 0.0, 5.0]))
    assert days.returns(100.0).value == pytest.approx([0.1, -0.5, -1.0, 0.0])


def test_daily_returns_of_every_day_compound_to_the_total_return() -> None:
    ts, equity = hours(*(100.0 + np.arange(73)))
    ts += 6 * HOUR_MS  # from seven in the morning, for a little more than three days
    ends, returns = daily_returns(ts, equity, 90.0)
    assert (ends - START).tolist() == [DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 79 * HOUR_MS]
    assert np.prod(1 + returns) == pytest.approx(172.0 / 90.0)
    assert returns[1] == pytest.approx(141 / 117 - 1)
    assert not len(daily_returns([], [], 1.0)[0])


def test_a_day_without_a_sample_has_the_return_zero() -> None:
    ts = START + np.array([1, 3]) * DAY_MS
    ends, returns = daily_returns(ts, [110.0, 121.0], 100.0)
    assert ends.tolist() == [START + number * DAY_MS for number in (1, 2, 3)]
    assert returns == pytest.approx([0.1, 0.0, 0.1])


def test_a_missing_day_has_the_value_of_the_day_before() -> None:
    days = DailyValues(np.array([3, 5]), np.array([1.0, 2.0]))
    assert np.array_equal(days.at(np.array([2, 3, 4, 5, 9])), [np.nan, 1, 1, 2, 2], equal_nan=True)


@given(
    st.lists(
        st.tuples(st.integers(1, 140), st.sampled_from([-2, -1, 1, 3]), st.integers(1, 200), st.booleans()),
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_daily_profits_add_up_to_the_profit_of_the_symbol(rows: list[tuple[int, int, int, bool]]) -> None:
    """For any fills and funding payments, the days add up to the profit at the last close."""
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
    daily = daily_pnl(moves, closes, DAY0 + np.arange(6))
    totals = book.symbols.get("X", SymbolTotals())
    assert daily.sum() == pytest.approx(float(totals.pnl(D(str(closes.price[-1])))), abs=1e-6)
