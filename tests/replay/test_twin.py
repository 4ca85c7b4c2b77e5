"""A venue run and its twin: equal rules differ by nothing, planted causes are found by name and size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.analysis.twin_parts import Cause, TwinFill, exact
from agent.analysis.twin_report import TwinReport, attribute_run
from agent.config import parse
from agent.core.errors import UsageError
from agent.core.events import (
    MINUTE_MS,
    AccountSnapshot,
    CashAdjustment,
    Command,
    Fill,
    Kline,
    RiskState,
)
from agent.core.strategy import Strategy
from agent.core.venue import OPENING
from agent.replay.decides_anew import DecidesAnew
from agent.replay.twin import fold_twin
from agent.replay.verify import verify
from agent.store.database import Database, open_database
from agent.store.journal import read_journal
from agent.store.queries import read_decisions
from agent.store.runs import Run
from tests.live.gateway.churning_strategy import churn
from tests.support.recorded_venue import BEGIN, PAPER, Venue, configuration, record

D = Decimal
SYMBOLS = ("BTCUSDT", "ETHUSDT")
MARKET = churn(limit=False)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
        yield opened


def twin(database: Database, run: Run, **more: Any) -> TwinReport:
    """Attribute a run and check that every order and every day adds up to the cent, and to the last digit."""
    report = attribute_run(fold_twin(database, run, trust_strategy=True, **more))
    with exact():
        assert report.difference == report.venue_equity - report.twin_equity
        assert sum(report.causes.values(), D(0)) == report.difference
        assert sum((day.difference for day in report.days), D(0)) == report.difference
        for day in report.days:
            assert sum(day.causes.values(), D(0)) == day.difference
        for order in report.orders:
            assert sum(order.causes.values(), D(0)) == order.difference
    assert report.venue_equity == pytest.approx(run.final_equity, abs=D("1e-12"))
    assert not report.notes
    return report


def named(report: TwinReport) -> set[Cause]:
    return {cause for cause, amount in report.causes.items() if amount}


def fills(database: Database, run: Run) -> list[Fill]:
    return [item.decision for item in read_decisions(database, run.id) if isinstance(item.decision, Fill)]


def spent(database: Database, run: Run) -> Decimal:
    return sum((fill.qty * fill.price for fill in fills(database, run)), D(0))


def test_the_recorded_runs_are_sound(database: Database) -> None:
    run = record(database, configuration(SYMBOLS, churn()), minutes=20)
    assert verify(database, run, trust_strategy=True).identical
    assert len(fills(database, run)) > 30


@pytest.mark.parametrize("executions", [1, 3])
@pytest.mark.parametrize("strategy", [churn(), MARKET])
def test_a_venue_with_the_rules_of_paper_leaves_nothing_to_explain(
    database: Database, strategy: dict[str, Any], executions: int
) -> None:
    run = record(database, configuration(SYMBOLS, strategy), Venue(executions=executions), minutes=90)
    report = twin(database, run)
    assert len(report.orders) > 200
    assert not report.difference
    assert not named(report)
    assert report.decided_anew
    assert report.first_different is None


def test_a_venue_that_fills_at_once_differs_by_the_moment_alone(database: Database) -> None:
    run = record(database, configuration(SYMBOLS, MARKET), Venue(at_once=True), minutes=40)
    report = twin(database, run, anew=False)
    assert {"latency"} < named(report) <= {"latency", "rounding", "fee", "partial"}
    assert abs(report.causes["rounding"]) < D("0.01") * sum((order.qty for order in report.orders), D(0))


def test_a_doubled_fee(database: Database) -> None:
    venue = Venue(rules={"taker_fee": "0.0011", "maker_fee": "0.0004"})
    run = record(database, configuration(SYMBOLS, MARKET), venue, minutes=60)
    report = twin(database, run, anew=False)
    assert named(report) == {"fee"}
    paid = sum((fill.fee for fill in fills(database, run)), D(0))
    assert report.causes["fee"] == -paid / 2


def test_other_decisions_are_named_once_the_state_differs(database: Database) -> None:
    venue = Venue(rules={"taker_fee": "0.0011", "maker_fee": "0.0004"})
    run = record(database, configuration(SYMBOLS, MARKET), venue, minutes=60)
    report = twin(database, run)
    assert named(report) == {"fee", "decision"}
    different = report.first_different
    assert different is not None
    first = next(
        order for order in report.orders if order.ts == different.ts and order.symbol == different.symbol
    )
    assert f"{first.side.lower()} {first.qty:f}" in different.at_venue  # a smaller equity, a smaller order
    assert different.on_paper != different.at_venue
    assert different.seq > 1


def test_a_wider_spread(database: Database) -> None:
    run = record(database, configuration(SYMBOLS, MARKET), Venue(rules={"half_spread_bps": 2.5}), minutes=60)
    report = twin(database, run, anew=False)
    assert named(report) == {"spread", "fee"}
    expected = -spent(database, run) * D("0.0002")
    assert report.causes["spread"] == pytest.approx(expected, rel=D("0.02"))  # the tick of 0.01 is a bp
    assert abs(report.causes["fee"]) < abs(report.causes["spread"]) / 100  # the fee of the spread


def test_two_seconds_of_latency(database: Database) -> None:
    run = record(database, configuration(SYMBOLS, MARKET), Venue(rules={"latency": 2_250}), minutes=60)
    report = twin(database, run, anew=False)
    assert {"latency"} < named(report) <= {"latency", "rounding", "fee", "partial"}
    assert report.venue_delays is not None
    assert report.paper_delays is not None
    assert report.venue_delays.median - report.paper_delays.median == 2_000
    prices = {
        (event.symbol, event.ts): D(repr(event.close))
        for _, event in read_journal(database, run.id)
        if isinstance(event, Kline) and not event.confirm
    }
    moved = D(0)
    for order in report.orders:
        if order.venue_qty and order.paper_qty:
            sign = 1 if order.side == "BUY" else -1
            at_venue = prices[order.symbol, order.ts + (order.venue_delay_ms or 0)]
            moved -= (
                sign * order.qty * (at_venue - prices[order.symbol, order.ts + (order.paper_delay_ms or 0)])
            )
    # the model's half spread on the price that moved is part of the moment
    assert report.causes["latency"] == pytest.approx(moved, rel=D("0.001"))
    assert abs(report.causes["fee"]) < abs(moved) / 100


def test_an_hour_of_gaps(database: Database) -> None:
    """An order waits for a price on paper, while the venue fills it."""
    run = record(database, configuration(SYMBOLS, MARKET), Venue(gap=(60, 120)), minutes=180)
    record_ = fold_twin(database, run, anew=False, trust_strategy=True)
    report = attribute_run(record_)
    assert named(report) == {"data", "fee"}
    assert report.holes == len(SYMBOLS)
    begin, end = BEGIN + 60 * MINUTE_MS, BEGIN + 120 * MINUTE_MS
    expected = D(0)
    for order in report.orders:
        moves = [m for m in record_.moves[order.id] if isinstance(m, TwinFill)]
        if begin <= min((m.ts for m in moves if m.venue), default=0) < end:
            assert set(order.causes) <= {"data", "fee"}
            expected -= sum(((1 if m.venue else -1) * m.side.sign * m.qty * m.price for m in moves), D(0))
        else:
            assert not order.difference
    assert expected
    assert report.causes["data"] == expected


@pytest.mark.slow
def test_participation_divides_orders(database: Database) -> None:
    venue = Venue(rules={"liquidity": "participation", "max_participation": 0.05})
    run = record(database, configuration(SYMBOLS, MARKET), venue, minutes=60)
    assert "partial" in named(twin(database, run, anew=False))


def test_rejected_orders(database: Database) -> None:
    run = record(database, configuration(SYMBOLS, MARKET), Venue(reject=9), minutes=60)
    report = twin(database, run, anew=False)
    assert "rejected" in named(report) <= {"rejected", "positions", "partial"}
    rejected = [order for order in report.orders if order.venue_status == "REJECTED"]
    assert rejected
    assert all(
        not order.difference
        for order in report.orders
        if order not in rejected and order.paper_qty == order.venue_qty
    )
    assert set(report.origins) <= {"rejected", "partial"}


def test_limit_orders_that_only_one_side_fills(database: Database) -> None:
    config = configuration(SYMBOLS, churn(), paper={"limit_fill": "touch"})
    run = record(database, config, Venue(rules={"latency": 5_000}), minutes=120)
    report = twin(database, run, anew=False)
    assert "limit" in named(report)
    limits = [order for order in report.orders if order.type == "LIMIT"]
    assert any(bool(order.venue_qty) != bool(order.paper_qty) for order in limits)
    assert set(report.origins) <= {"limit", "partial"}


@pytest.mark.slow
def test_funding_at_another_rate(database: Database) -> None:
    hold = {"name": "buy_and_hold", "params": {}}
    config = configuration(SYMBOLS, hold, paper={"funding_rate": "0.0001"})
    run = record(database, config, Venue(funding_rate="0.0003"), minutes=250)
    report = twin(database, run)
    assert named(report) == {"funding"}
    assert report.causes["funding"] < 0
    config = configuration(SYMBOLS, hold, paper={"funding_rate": "0.0001"})
    run = record(database, config, Venue(funding_rate="0.0001"), minutes=250, run_id="same")
    assert not twin(database, run).difference


@pytest.mark.slow
def test_days_are_divided_at_midnight(database: Database) -> None:
    config = configuration(("BTCUSDT",), MARKET)
    venue = Venue(rules={"half_spread_bps": 2.5, "latency": 20_250})
    run = record(database, config, venue, minutes=780, step=5_000)
    report = twin(database, run)
    assert [day.day for day in report.days] == ["2025-01-01", "2025-01-02"]
    assert all(day.difference for day in report.days)


def test_on_spot(database: Database) -> None:
    """Fees of the category, no short sales, and no funding."""
    hold = {"name": "sma_cross", "params": {"fast": 2, "slow": 5}}
    config = configuration(SYMBOLS, hold, market={"symbols": SYMBOLS, "category": "spot"})
    assert not twin(database, record(database, config, minutes=90)).difference
    dearer = Venue(rules={"taker_fee": "0.002"})
    report = twin(database, record(database, config, dearer, minutes=90, run_id="dearer"), anew=False)
    assert named(report) == {"fee"}
    assert len(report.orders) > 20


def test_other_costs_for_the_twin(database: Database) -> None:
    run = record(database, configuration(SYMBOLS, MARKET), Venue(rules={"half_spread_bps": 2.5}), minutes=30)
    costs = parse({"paper": PAPER | {"half_spread_bps": 2.5}}, where="test")
    report = twin(database, run, costs=costs)
    assert not report.difference
    assert "half_spread_bps" in report.costs


@pytest.mark.parametrize("discounted", [True, False])
def test_a_balance_below_the_configured_capital_is_a_loss_only_to_early_runs(discounted: bool) -> None:
    config = parse({"market": {"symbols": ["BTCUSDT"]}, "strategy": {"name": "sma_cross"}}, where="test")
    anew = DecidesAnew(config, Strategy(), "run", None)
    abilities = {"cash": "stated"} | ({"transfers": "discounted"} if discounted else {})
    anew.handle(1, Command("life", BEGIN, BEGIN, {"incarnation": "a"} | abilities), [])

    def bars(first: int) -> None:
        for number in range(first, first + 3):
            start, end = BEGIN + number * MINUTE_MS, BEGIN + (number + 1) * MINUTE_MS
            bar = Kline("BTCUSDT", MINUTE_MS, start, end, end, 100.0, 100.0, 100.0, 100.0, 1.0)
            anew.handle(2 + number, bar, [])

    bars(0)
    now = BEGIN + 3 * MINUTE_MS
    opening = CashAdjustment(now, "USDT", Decimal(-9_000), OPENING)
    anew.handle(5, AccountSnapshot(now, now, {"USDT": Decimal(1_000)}), [opening])
    bars(4)
    assert anew.equity == 1_000
    assert anew.state is (RiskState.ACTIVE if discounted else RiskState.HALTED)


def test_a_run_on_paper_has_no_twin(database: Database) -> None:
    config = configuration(SYMBOLS, MARKET)
    run = record(database, config, minutes=2)
    paper = config.model_copy(update={"execution": config.execution.model_copy(update={"mode": "paper"})})

    with pytest.raises(UsageError, match="traded on paper"):
        fold_twin(database, msgspec.structs.replace(run, config=paper.persisted()))


# -- history ----------------------------------------------------------------------------------------------


def streamed(database: Database, run: Run, symbol: str) -> list[Kline]:
    events = (event for _, event in read_journal(database, run.id))
    return [e for e in events if isinstance(e, Kline) and e.confirm and e.symbol == symbol]


def write(path: Path, bars: list[Kline]) -> tuple[Path, str | None]:
    lines = ["timestamp,open,high,low,close,volume"]
    lines += [f"{b.start},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars]
    path.write_text("\n".join(lines) + "\n")
    return path, bars[0].symbol


@pytest.mark.slow
def test_a_backtest_of_the_same_bars_differs_by_the_timing(database: Database, tmp_path: Path) -> None:
    run = record(database, configuration(SYMBOLS, MARKET), minutes=60)
    files = [write(tmp_path / f"{s}-1m.csv", streamed(database, run, s)) for s in SYMBOLS]
    report = twin(database, run, history=files)
    assert named(report) == {"timing"}
    assert [bars.differing for bars in report.bars] == [0, 0]
    assert report.difference == twin(database, run, history=[]).difference


def test_bars_that_differ_are_counted_and_measured(database: Database, tmp_path: Path) -> None:
    run = record(database, configuration(("BTCUSDT",), MARKET), minutes=60)
    bars = streamed(database, run, "BTCUSDT")

    changed = [
        msgspec.structs.replace(bar, close=bar.close * 1.01, high=bar.high * 1.02)
        if number in (10, 20)
        else bar
        for number, bar in enumerate(bars)
        if number != 30
    ]
    report = twin(database, run, history=[write(tmp_path / "BTCUSDT-1m.csv", changed)])
    assert named(report) == {"timing", "history"}
    (found,) = report.bars
    assert (found.compared, found.differing, found.only_streamed, found.only_history) == (59, 2, 1, 0)
    assert found.mean_bps == pytest.approx(10_000 * (1 - 1 / 1.01), rel=1e-3)
    assert found.source == "BTCUSDT-1m.csv"


def test_history_of_another_interval_or_symbol_is_refused(database: Database, tmp_path: Path) -> None:
    run = record(database, configuration(("BTCUSDT",), MARKET), minutes=30)
    bars = streamed(database, run, "BTCUSDT")
    path, _ = write(tmp_path / "file.csv", bars[::5])
    with pytest.raises(UsageError, match="bars of 5m"):
        fold_twin(database, run, history=[(path, "BTCUSDT")], trust_strategy=True)
    path, _ = write(tmp_path / "file.csv", bars)
    with pytest.raises(UsageError, match="did not trade"):
        fold_twin(database, run, history=[(path, "SOLUSDT")], trust_strategy=True)
