"""Round trips in groups: labels, sums, edges of bins and the deepest drawdowns, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from agent.analysis.equity import Drawdown
from agent.analysis.trade_groups import (
    DURATION_EDGES,
    RETURN_EDGES,
    Grouping,
    TradeAnalysis,
    TradeBin,
    TradeGroup,
    analyse_trades,
    reason_group,
    worst_drawdowns,
)
from agent.analysis.trades import RoundTrip
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS, Side

MONDAY = 1_736_121_600_000  # 2025-01-06T00:00Z


def trade(pnl: str, begin: int, lasts: int | None, **fields: Any) -> RoundTrip:
    values: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "side": Side.BUY,
        "entry_ts": begin,
        "exit_ts": None if lasts is None else begin + lasts,
        "entry_price": Decimal(100),
        "exit_price": Decimal(100),
        "qty": Decimal(1),
        "pnl": Decimal(pnl),
        "fees": Decimal("0.1"),
        "funding": Decimal("-0.02"),
        "slippage": Decimal(0),
    }
    return RoundTrip(**(values | fields))


TRADES = [
    trade("2", MONDAY, HOUR_MS, reason="expects +0.31%", exit_reason="stop"),
    trade("-1", MONDAY + 23 * HOUR_MS, 2 * HOUR_MS, reason="expects -1.52%", exit_reason="stop"),
    trade("0", MONDAY + 6 * DAY_MS, DAY_MS, symbol="ETHUSDT", side=Side.SELL, exit_reason="flip"),
    trade("9", MONDAY, None),
]


def labels(analysis: TradeAnalysis, name: Grouping) -> list[tuple[str, int, int, int]]:
    return [(group.label, group.trades, group.wins, int(group.pnl)) for group in analysis.groups[name]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("symbol", [("BTCUSDT", 2, 1, 1), ("ETHUSDT", 1, 0, 0)]),
        ("side", [("long", 2, 1, 1), ("short", 1, 0, 0)]),
        ("entry reason", [("expects …%", 2, 1, 1), ("none given", 1, 0, 0)]),
        ("exit reason", [("stop", 2, 1, 1), ("flip", 1, 0, 0)]),
        ("day", [("2025-01-06", 1, 1, 2), ("2025-01-07", 1, 0, -1), ("2025-01-13", 1, 0, 0)]),
        ("weekday", [("Monday", 2, 1, 1), ("Sunday", 1, 0, 0)]),
        ("hour", [("00:00", 2, 1, 2), ("23:00", 1, 0, -1)]),
    ],
)
def test_closed_round_trips_by(name: Grouping, expected: list[tuple[str, int, int, int]]) -> None:
    assert labels(analyse_trades(TRADES), name) == expected


def test_the_figures_of_a_group() -> None:
    (stop, _) = analyse_trades(TRADES).groups["exit reason"]
    assert (stop.fees, stop.funding) == (Decimal("0.2"), Decimal("-0.04"))
    assert stop.profit_factor == 2.0  # 2 / 1
    assert stop.win_rate == 0.5
    assert stop.mean_return == pytest.approx(0.005)  # (2 % - 1 %) / 2
    assert stop.mean_duration == 1.5 * HOUR_MS


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("-10.1", None, -0.1),
        ("-10", -0.1, -0.05),
        ("0", 0.0, 0.005),
        ("-0.1", -0.005, 0.0),
        ("10", 0.1, None),
    ],
)
def test_a_return_on_an_edge_belongs_to_the_bin_above(
    value: str, low: float | None, high: float | None
) -> None:
    (found,) = [bin for bin in analyse_trades([trade(value, MONDAY, MINUTE_MS)]).returns if bin.trades]
    assert (found.low, found.high, found.pnl) == (low, high, Decimal(value))


def test_durations_are_counted_from_entry_to_exit() -> None:
    found = [(bin.low, bin.trades) for bin in analyse_trades(TRADES).durations if bin.trades]
    assert found == [(HOUR_MS, 2), (DAY_MS, 1)]


@given(some.lists(some.tuples(some.integers(-2_000, 2_000), some.integers(0, 10**10)), max_size=30))
def test_every_grouping_and_distribution_has_each_round_trip_once(rows: list[tuple[int, int]]) -> None:
    trades = [trade(str(pnl), MONDAY + 7 * lasts, lasts) for pnl, lasts in rows]
    analysis = analyse_trades(trades)
    total = Decimal(sum(pnl for pnl, _ in rows))
    parts: list[Sequence[TradeGroup | TradeBin]] = [*analysis.groups.values()]
    parts += [analysis.returns, analysis.durations]
    for rows_of in parts:
        assert sum(row.trades for row in rows_of) == len(trades) == analysis.trades
        assert sum((row.pnl for row in rows_of), Decimal(0)) == total
    assert len(analysis.returns) == len(RETURN_EDGES) + 1
    assert len(analysis.durations) == len(DURATION_EDGES) + 1


def test_reasons_differ_by_words_alone() -> None:
    assert reason_group("expects +0.31%") == reason_group("expects -12,000.5%") == "expects …%"
    assert reason_group("") == "none given"


def test_the_deepest_drawdowns_come_first_and_do_not_overlap() -> None:
    ts = np.arange(1, 9) * MINUTE_MS
    equity = np.array([90.0, 95.0, 100.0, 110.0, 99.0, 108.0, 110.0, 55.0])
    found = worst_drawdowns(ts, equity, 100.0, start=0, count=2)
    assert found == [
        Drawdown(-0.5, 7 * MINUTE_MS, 8 * MINUTE_MS, None),
        Drawdown(90 / 100 - 1, 0, MINUTE_MS, 3 * MINUTE_MS),
    ]
    assert len(worst_drawdowns(ts, equity, 100.0, start=0)) == 3
    assert worst_drawdowns(ts, np.linspace(100.0, 107.0, 8), 100.0, start=0) == []
