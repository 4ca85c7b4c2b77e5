"""Runs that earlier versions recorded still verify: wire tags, columns and configuration keys outlive every change of the code.

`recorded/KIND-SCHEMA.db.gz` are stores as the version with that schema left them: a backtest of the sample data, and a live run of two
lives that traded at a sandbox, in an account of another size than `account.initial_capital`.
"""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest

from agent.store.database import open_database, upgrade
from agent.store.queries import find_run, read_decisions
from agent.verify import verify
from tests.conftest import ROOT

STORES = sorted((ROOT / "tests" / "store" / "recorded").glob("*.db.gz"))


@pytest.mark.parametrize("recorded", STORES, ids=lambda path: path.name.partition(".")[0])
def test_a_run_of_an_earlier_version_verifies(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the backtest names its files from there
    store = tmp_path / "store.db"
    store.write_bytes(gzip.decompress(recorded.read_bytes()))
    upgrade(f"sqlite:///{store}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        run = find_run(database)
        proof = verify(database, run)
        assert proof.identical
        assert proof.decisions == run.decisions == len(list(read_decisions(database, run.id))) > 10
