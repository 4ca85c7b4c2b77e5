"""Fills at the venue compared with paper fills, on bars and fills with known results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from agent.analysis.venue_slippage import compare_with_paper
from agent.config import Config, parse
from agent.core.engine import Engine
from agent.core.errors import UsageError
from agent.core.events import AccountSnapshot, Event, Fill, Kline, News, Order, OrderStatus, OrderUpdate, Side
from agent.core.strategy import Market, Strategy
from agent.store.database import Database, open_database
from agent.store.journal import Journal
from agent.store.queries import find_run, read_rows
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind

T0 = 1_735_689_600_000
MINUTE = 60_000


class OnNews(Strategy):
    """Sets the target weight to the number in the headline."""

    def on_news(self, news: News, market: Market) -> None:
        self.target("BTCUSDT", weight=float(news.title))


def settings(mode: str) -> Config:
    paper = {"latency": 0, "half_spread_bps": 0, "slippage": "none", "liquidity": "infinite"}
    return parse(
        {
            "market": {"symbols": ["BTCUSDT"]},
            "execution": {"mode": mode},
            "paper": paper,
            "strategy": {"name": "sma_cross"},
        },
        where="test",
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
        yield opened


def bar(number: int, price: float) -> Kline:
    start = T0 + number * MINUTE
    return Kline("BTCUSDT", MINUTE, start, start + MINUTE, start + MINUTE, price, price, price, price, 100.0)


def record(
    database: Database, mode: str, venue_price: str, kind: RunKind = RunKind.LIVE, **more: object
) -> None:
    """Record a buy at a mark of 100: paper fills it at 101, the venue at `venue_price` in two parts.

    `more` is recorded with the configuration.
    """
    config = settings(mode)
    run = Run(id="run", kind=kind, started_at=T0, strategy="sma_cross", config=config.persisted() | more)
    with Recorder(database, run) as recorder:
        journal = Journal(database, run.id)
        engine = Engine(
            config, OnNews(), recorder, run_id="run", exchange=config.execution.exchange(), equity_block=1
        )

        def handle(*events: Event) -> None:
            for seq, event in enumerate(events, journal.append(list(events))):
                recorder.event_seq = seq
                engine.handle(event)

        now = T0 + MINUTE
        handle(
            AccountSnapshot(now, now, {"USDT": Decimal(10_000)}), bar(0, 100.0), News("n", now, now, "0.5")
        )
        recorder.flush()
        (order,) = read_rows(database, "run", Order)
        if mode == "testnet":
            half = order.qty / 2
            handle(
                *(
                    Fill(
                        f"e{n}",
                        order.id,
                        "BTCUSDT",
                        now + 80,
                        now + 90,
                        Side.BUY,
                        half,
                        Decimal(venue_price),
                        Decimal(0),
                    )
                    for n in range(2)
                ),
                OrderUpdate(order.id, "BTCUSDT", now + 80, now + 95, OrderStatus.FILLED, order.qty),
            )
        handle(bar(1, 101.0), bar(2, 102.0))
        recorder.finish(first_event_at=T0, last_event_at=now, final_equity=Decimal(1), metrics={})


@pytest.mark.parametrize(
    ("price", "venue_bps", "excess_bps"), [("100.5", 50.0, -50.0), ("101", 100.0, 0.0), ("102", 200.0, 100.0)]
)
def test_costs_are_relative_to_the_mark_at_the_decision(
    database: Database, price: str, venue_bps: float, excess_bps: float
) -> None:
    record(database, "testnet", price)
    found = compare_with_paper(database, find_run(database))
    (row,) = found.orders
    assert (row.reference, row.paper_price, row.venue_price) == (100.0, 101.0, float(price))
    assert row.paper_bps == pytest.approx(100.0)
    assert row.venue_bps == pytest.approx(venue_bps)
    assert row.excess_bps == pytest.approx(excess_bps)
    assert row.excess == pytest.approx((float(price) - 101.0) * float(row.venue_qty))
    assert row.venue_qty == row.paper_qty == row.qty
    assert row.venue_delay_ms == 90
    assert found.summary.excess_bps == pytest.approx(excess_bps)
    assert (found.summary.orders, found.summary.both, found.summary.only_paper) == (1, 1, 0)


@pytest.mark.parametrize(
    ("mode", "kind", "more"),
    [
        ("paper", RunKind.LIVE, {}),
        ("paper", RunKind.BACKTEST, {"window": {"start": T0}}),
        ("testnet", RunKind.BACKTEST, {"window": {"start": T0}}),
    ],
)
def test_a_run_on_paper_is_rejected(
    database: Database, mode: str, kind: RunKind, more: dict[str, object]
) -> None:
    record(database, mode, "100", kind, **more)
    with pytest.raises(UsageError, match="run run traded on paper"):
        compare_with_paper(database, find_run(database))
