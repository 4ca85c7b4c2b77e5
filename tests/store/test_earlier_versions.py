"""Runs recorded by earlier versions still verify: wire tags, columns and configuration keys don't change.

`recorded/KIND-SCHEMA.db.gz` are stores written by the version with that schema: a backtest of the sample
data, and a live run with one restart that traded at a sandbox, in an account whose size differs from
`account.initial_capital`.
"""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest

from agent.analysis.report.report_loader import load_report_data
from agent.replay.verify import verify
from agent.store.database import open_database, upgrade
from agent.store.queries import find_run, read_decisions
from tests.conftest import ROOT

STORES = sorted((ROOT / "tests" / "store" / "recorded").glob("*.db.gz"))


def test_returns_are_based_on_the_account_not_on_initial_capital(tmp_path: Path) -> None:
    """The account has 10,000 USDT and `initial_capital = 8000`: the difference is not a profit of 25 %."""
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
    assert (
        "Deposits minus withdrawals during the run were +2,000.00 USDT; they are excluded from the returns."
        in data.notes
    )


@pytest.mark.parametrize("recorded", STORES, ids=lambda path: path.name.partition(".")[0])
def test_a_run_of_an_earlier_version_verifies(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the backtest's input paths are relative to it
    store = tmp_path / "store.db"
    store.write_bytes(gzip.decompress(recorded.read_bytes()))
    upgrade(f"sqlite:///{store}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        run = find_run(database)
        proof = verify(database, run)
        assert proof.identical
        assert proof.decisions == run.decisions == len(list(read_decisions(database, run.id))) > 10
