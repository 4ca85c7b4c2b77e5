"""Runs that earlier versions recorded still verify: wire tags, columns and configuration keys outlive every change of the code.

`recorded/KIND-SCHEMA.db.gz` are stores as the version with that schema left them: a backtest of the sample data, and a live run of two
lives that traded at a sandbox, in an account of another size than `account.initial_capital`.
"""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest

from agent.analysis.report.load import load_report_data
from agent.replay.verify import verify
from agent.store.database import open_database, upgrade
from agent.store.queries import find_run, read_decisions
from tests.conftest import ROOT

STORES = sorted((ROOT / "tests" / "store" / "recorded").glob("*.db.gz"))


def test_the_report_of_an_account_of_another_size_has_the_returns_of_what_was_there(tmp_path: Path) -> None:
    """10,000 USDT in the account and `initial_capital = 8000`: the difference is no profit of 25 %."""
    store = tmp_path / "store.db"
    store.write_bytes(
        gzip.decompress((ROOT / "tests" / "store" / "recorded" / "live-0007.db.gz").read_bytes())
    )
    upgrade(f"sqlite:///{store}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        data = load_report_data(database)
    metrics = data.metrics
    assert metrics.initial_equity == pytest.approx(10_000)
    assert metrics.performance.total_return == pytest.approx(metrics.final_equity / 10_000 - 1)
    assert abs(metrics.performance.total_return) < 0.05
    assert "+2,000.00 USDT came or went without a trade while it ran: the returns leave it out." in data.notes


@pytest.mark.parametrize("recorded", STORES, ids=lambda path: path.name.partition(".")[0])
def test_a_run_of_an_earlier_version_verifies(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the backtest names its files from there
    store = tmp_path / "store.db"
    store.write_bytes(gzip.decompress(recorded.read_bytes()))
    upgrade(f"sqlite:///{store}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        run = find_run(database)
        proof = verify(database, run)
        assert proof.identical
        assert proof.decisions == run.decisions == len(list(read_decisions(database, run.id))) > 10
