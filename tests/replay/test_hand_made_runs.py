"""The comparison of two hand-made runs, whose figures are derived by hand.

Run `a` buys 1 BTCUSDT at 110 in hour 10 and sells it at 120 in hour 20, with a fee of 1 and slippage of 0.5
each time: 10 - 2 = 8 are left. Run `b` differs in its fee or its exit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal as D
from pathlib import Path

import msgspec
import pytest

from agent.analysis.equity import EquityCurve
from agent.analysis.run_metrics import compute
from agent.analysis.trades import TradeBook
from agent.config import Config
from agent.core.events import HOUR_MS, Fill, Order, OrderType, Side
from agent.replay.run_comparison import compare_runs
from agent.store.database import Database, open_database
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind

START = 1_704_067_200_000  # 2024-01-01


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
        yield opened


def record(database: Database, name: str, *, fee: D = D(1), sold_in: int = 20, begin: int = START) -> Run:
    """Record 48 hours with a price of 100 + hour."""
    config = Config.model_validate({"market": {"interval": "1h"}, "paper": {"half_spread_bps": 0}})
    run = Run(name, RunKind.BACKTEST, begin, "sma_cross", {"fast": 20}, config.persisted())
    curve, book = EquityCurve(10_000.0, HOUR_MS), TradeBook()
    with Recorder(database, run) as recorder:
        for hour in range(1, 49):
            ts, price = begin + hour * HOUR_MS, 100 + hour
            recorder.event_seq = hour
            if hour in (10, sold_in):
                side = Side.BUY if hour == 10 else Side.SELL
                order = Order(f"tw-{name}{hour:031d}", "BTCUSDT", ts, side, OrderType.MARKET, D(1))
                fill = Fill(
                    f"{order.id}.0", order.id, "BTCUSDT", ts, ts, side, D(1), D(price), fee, slippage=D("0.5")
                )
                recorder.decision(order)
                recorder.decision(fill)
                book.add(fill)
            totals = book.symbols.get("BTCUSDT")
            equity = 10_000 + (float(totals.pnl(D(price))) if totals else 0.0)
            recorder.equity([ts], [equity], [equity], [0.0])
            curve.add(ts, equity, bool(totals and totals.qty))
        metrics = compute(curve, book, category="linear", interval=HOUR_MS)
        return recorder.finish(
            first_event_at=begin + HOUR_MS,
            last_event_at=begin + 48 * HOUR_MS,
            final_equity=D(repr(metrics.final_equity)),
            metrics=msgspec.to_builtins(metrics),
        )


def test_another_fee_changes_fee_and_net_result_alone(database: Database) -> None:
    found = compare_runs(database, record(database, "a"), record(database, "b", fee=D(2)))
    a, b = found.costs_a, found.costs_b
    assert (a.gross, a.spread, a.slippage, a.fees, a.funding, a.net) == (11, 0, -1, -2, 0, 8)
    assert (b.gross, b.spread, b.slippage, b.fees, b.funding, b.net) == (11, 0, -1, -4, 0, 6)
    (pair,) = found.trades.differing
    assert pair.differs == ("pnl", "fees")
    assert (pair.a.pnl, pair.b.pnl, pair.pnl) == (8, 6, 2)
    rows = {row.name: row for row in found.metrics}
    total = rows["performance.total_return"]
    assert (total.a, total.b) == (pytest.approx(0.0008), pytest.approx(0.0006))
    assert total.difference == pytest.approx(0.0002)
    assert found.paired.periods == 48  # hours, since two days are too few
    assert found.paired.difference is not None
    assert found.paired.difference.total_return.value == pytest.approx(0.0002)
    assert found.lead.ts[0] == START
    assert found.lead.values[-1] == pytest.approx(0.0002)
    # the orders are equal; the fill of hour 10, the second decision, is the first that differs
    assert found.first_decision is not None
    difference = found.first_decision.difference
    assert (difference.number, difference.event_seq) == (2, 10)
    assert [(one.name, one.a, one.b) for one in difference.fields] == [("fee", D(1), D(2))]
    assert (found.settings, found.identical, found.same_decisions) == ([], False, False)
    assert found.inputs.same is None  # the runs name no input files
    assert "no klines to replay" in found.inputs.detail


def test_a_later_exit_is_the_difference_of_prices(database: Database) -> None:
    found = compare_runs(database, record(database, "a"), record(database, "b", sold_in=25))
    (pair,) = found.trades.differing
    assert pair.differs == ("exit_ts", "exit_price", "pnl")
    assert pair.pnl == -5  # 120 instead of 125
    assert found.first_decision is not None
    difference = found.first_decision.difference
    assert (difference.number, difference.event_seq, difference.kind_b) == (3, 20, "")
    assert found.costs_a.net - found.costs_b.net == -5


def test_runs_of_other_days_share_no_round_trip(database: Database) -> None:
    later = START + 72 * HOUR_MS
    found = compare_runs(database, record(database, "a"), record(database, "b", begin=later))
    assert (len(found.trades.only_a), len(found.trades.only_b)) == (1, 1)
    assert found.paired.absent == "the runs have no time in common"
    assert found.lead.ts == []
