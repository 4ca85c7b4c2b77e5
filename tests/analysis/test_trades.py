"""Round trips from sequences of fills."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.trades import TradeBook, round_trips
from agent.core.events import Fill, FundingPayment, Side


def fill(move: str, ts: int = 0, symbol: str = "BTCUSDT") -> Fill:
    """Parse a fill: `+2@100/0.5` buys 2 at 100 with a fee of 0.5; `-` sells."""
    size, rest = move.split("@")
    price, _, fee = rest.partition("/")
    side = Side.BUY if size[0] == "+" else Side.SELL
    return Fill("", "", symbol, ts, ts, side, D(size[1:]), D(price), D(fee or 0), slippage=D(size[1:]))


def funding(amount: str, symbol: str = "BTCUSDT") -> FundingPayment:
    return FundingPayment(symbol, 0, D(0), D(0), D(0), D(amount))


@pytest.mark.parametrize(
    ("fills", "trades"),
    [
        # fills, then (side, entry, exit, qty, pnl, fees) a trade
        ("+1@100 -1@110", [("BUY", 100, 110, 1, 10, 0)]),
        ("+1@100/1 -1@110/2", [("BUY", 100, 110, 1, 7, 3)]),
        ("-2@100 +2@110", [("SELL", 100, 110, 2, -20, 0)]),
        ("+1@100 +3@120 -4@120", [("BUY", 115, 120, 4, 20, 0)]),  # scaled in
        ("+4@100 -1@110 -3@130", [("BUY", 100, 125, 4, 100, 0)]),  # scaled out
        ("+2@100 -1@110 +1@120 -2@130", [("BUY", "320/3", "370/3", 3, 50, 0)]),  # out and in again
        # A flip splits its fee
        ("+1@100/1 -3@110/3 +2@100/2", [("BUY", 100, 110, 1, 8, 2), ("SELL", 110, 100, 2, 16, 4)]),
        ("+1@100 -1@100", [("BUY", 100, 100, 1, 0, 0)]),
        ("+1@100 -1@110 +1@110 -1@100", [("BUY", 100, 110, 1, 10, 0), ("BUY", 110, 100, 1, -10, 0)]),
    ],
)
def test_round_trips(fills: str, trades: list[tuple]) -> None:
    def number(value: object) -> D:
        top, _, bottom = str(value).partition("/")
        return D(top) / D(bottom or 1)

    found = round_trips(fill(move, ts) for ts, move in enumerate(fills.split()))
    assert [(t.side, t.entry_price, t.exit_price, t.qty, t.pnl, t.fees) for t in found] == [
        (side, *map(number, figures)) for side, *figures in trades
    ]
    assert all(trade.exit_ts is not None for trade in found)


def test_an_open_round_trip_is_not_part_of_the_statistics() -> None:
    book = TradeBook()
    for ts, move in enumerate(("+4@100/1", "-1@110/1")):
        assert book.add(fill(move, ts)) is None
    (trade,) = book.open_trades()
    # A profit of 10 on the closed part, minus fees
    assert (trade.exit_ts, trade.exit_price, trade.pnl) == (None, D(110), D(8))
    assert book.stats.trades == 0
    assert book.stats.win_rate is None


def test_funding_belongs_to_the_open_round_trip() -> None:
    moves = [fill("+1@100"), funding("-3"), fill("+1@50", symbol="ETHUSDT"), fill("-1@110"), funding("-5")]
    closed, still_open = round_trips(moves)
    assert (closed.pnl, closed.funding) == (D(7), D(-3))
    assert still_open.funding == 0


def test_statistics_of_known_trades() -> None:
    book = TradeBook()
    for ts, move in enumerate(
        ["+1@100", "-1@110", "+1@100", "-1@130", "+1@100", "-1@90", "+1@100", "-1@100"]
    ):
        book.add(fill(move, ts * 1000))
    stats = book.stats
    assert (stats.trades, stats.wins, stats.losses) == (4, 2, 1)
    assert (stats.win_rate, stats.profit_factor) == (0.5, 4.0)
    assert (stats.average_win, stats.average_loss, stats.expectancy) == (20.0, -10.0, 7.5)
    assert (stats.best, stats.worst, stats.average_holding_time) == (D(30), D(-10), 1000.0)
    assert book.months["1970-01"] == stats


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("BTCUSDT", "ETHUSDT")),
            st.sampled_from("+-"),
            st.integers(1, 9),
            st.integers(50, 150),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(50, 150),
)
def test_profits_by_symbol_add_up_to_the_cash_flow(moves: list[tuple], mark: int) -> None:
    """Closed round trips and open positions at their mark explain the whole cash flow."""
    book, closed, cash, held = TradeBook(), D(0), D(0), dict.fromkeys(("BTCUSDT", "ETHUSDT"), 0)
    for ts, (symbol, sign, qty, price, fee) in enumerate(moves):
        trade = book.add(fill(f"{sign}{qty}@{price}/{fee}", ts, symbol))
        closed += trade.pnl if trade else 0
        signed = qty if sign == "+" else -qty
        held[symbol] += signed
        cash -= signed * price + fee
    assert {symbol: totals.qty for symbol, totals in book.symbols.items()} == {
        s: held[s] for s in book.symbols
    }
    equity = cash + sum(held.values()) * mark
    assert sum(totals.pnl(D(mark)) for totals in book.symbols.values()) == equity
    running = sum(trade.pnl + (mark - trade.entry_price) * held[trade.symbol] for trade in book.open_trades())
    assert closed + running == pytest.approx(equity)
    assert sum(totals.slippage for totals in book.symbols.values()) == sum(move[2] for move in moves)
