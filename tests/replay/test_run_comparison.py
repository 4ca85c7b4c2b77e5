"""Runs of earlier versions, a backtest and a run at a venue, are compared and explained."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.events import FillKind
from agent.replay.explanation import explain_orders
from agent.replay.order_history import order_history
from agent.replay.run_comparison import compare_runs
from agent.store.database import Database, open_database, upgrade
from agent.store.queries import find_run
from agent.store.runs import RunKind
from tests.conftest import ROOT

STORES = sorted((ROOT / "tests" / "store" / "recorded").glob("*.db.gz"))


@pytest.fixture(params=STORES, ids=lambda path: path.name.partition(".")[0])
def recorded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    monkeypatch.chdir(ROOT)  # the backtest's input paths are relative to it
    store = tmp_path / "store.db"
    store.write_bytes(gzip.decompress(request.param.read_bytes()))
    upgrade(f"sqlite:///{store}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        yield database


def test_it_is_identical_with_itself(recorded: Database) -> None:
    run = find_run(recorded)
    found = compare_runs(recorded, run, run)
    assert found.identical
    assert found.decisions.equal == found.decisions.a > 10
    assert found.trades.equal == len(order_history(recorded, run).trips)
    assert all(row.difference in (0.0, None) for row in found.metrics)


def test_every_order_is_explained(recorded: Database) -> None:
    run = find_run(recorded)
    history = order_history(recorded, run)
    records = list(history.orders.values())
    assert records
    for one, record in zip(explain_orders(recorded, run, history, records), records, strict=True):
        assert one.order == record.order
        assert one.event_seq == record.event_seq
        assert one.outcome.fills == record.fills
        assert one.outcome.filled <= record.order.qty
        assert (one.outcome.arrives_at is None) == (run.kind is RunKind.LIVE)  # it traded at a venue
        if one.origin == "target" and one.target is not None:
            assert one.target.callback.startswith("on_")
            assert one.size is not None
            assert one.size.confirmed, one
        trades = [fill for fill in record.fills if fill.kind is FillKind.TRADE]
        assert one.outcome.latency_ms is None or trades
