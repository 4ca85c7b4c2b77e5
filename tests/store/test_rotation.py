"""Backups night after night: archives once, copies fewer the older they are, and all of it can be put back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from typer.testing import CliRunner

from agent.cli.main import build
from agent.config.control import BackupConfig
from agent.core.errors import StoreError
from agent.store.backup import put_back
from agent.store.database import Database, open_database
from agent.store.journal import encode, find_segments, read_journal
from agent.store.queries import find_run
from agent.store.rotation import ARCHIVES, bring_archives, chosen, rotate
from agent.store.segments import roll_over
from agent.store.snapshots import Snapshot, write_snapshot
from tests.store.test_archive import Now, lived

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
POLICY = BackupConfig()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'live' / 'store.db'}")) as database:
        lived(database, "run-1", 10, count=60)
        for seq in (20, 40):
            write_snapshot(database, "run-1", Snapshot(seq, 0, "f", "s", {}, boundary=True), 3)
        yield database


def roll(store: Database, folder: Path) -> list[Path]:
    roll_over(store, find_run(store, "run-1"), folder, Now(), lambda run, end: None)
    return [Path(segment.path) for segment in find_segments(store, "run-1")]


def file_of(store: Database) -> Path:
    assert store.file is not None
    return store.file


def test_archives_are_in_the_backup_once(store: Database, tmp_path: Path) -> None:
    files = roll(store, tmp_path / "archive")
    first = rotate(file_of(store), tmp_path / "backups", POLICY, NOON)
    second = rotate(file_of(store), tmp_path / "backups", POLICY, NOON + timedelta(days=1))
    assert (first.added, second.added) == (2, 0)
    for file in files:
        assert os.path.samefile(file, tmp_path / "backups" / ARCHIVES / file.name)
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == [
        "20260331T120000Z.db", "20260401T120000Z.db", ARCHIVES,
    ]  # fmt: skip


def test_all_of_a_lost_disk_can_be_put_back(store: Database, tmp_path: Path) -> None:
    before = [(seq, encode(event)) for seq, event in read_journal(store, "run-1")]
    roll(store, tmp_path / "archive")
    done = rotate(file_of(store), tmp_path / "backups", POLICY, NOON)
    store.close()
    shutil.rmtree(tmp_path / "archive")
    shutil.rmtree(tmp_path / "live")
    put_back(Path(done.holds.file), file_of(store))
    brought, missing = bring_archives(file_of(store), tmp_path / "backups" / ARCHIVES)
    assert (len(brought), missing) == (2, [])
    with closing(open_database(f"sqlite:///{file_of(store)}")) as again:
        assert [(seq, encode(event)) for seq, event in read_journal(again, "run-1")] == before


def test_an_archive_that_is_gone_is_named(store: Database, tmp_path: Path) -> None:
    first, second = roll(store, tmp_path / "archive")
    second.unlink()
    assert rotate(file_of(store), tmp_path / "backups", POLICY, NOON).missing == (str(second),)
    first.unlink()
    brought, missing = bring_archives(file_of(store), tmp_path / "backups" / ARCHIVES)
    assert (brought, missing) == ([first], [str(second)])


def test_a_damaged_archive_gets_no_place_in_the_backup(store: Database, tmp_path: Path) -> None:
    file, _ = roll(store, tmp_path / "archive")
    file.write_bytes(b"something else")
    with pytest.raises(StoreError, match="has changed"):
        rotate(file_of(store), tmp_path / "backups", POLICY, NOON)
    assert not (tmp_path / "backups" / ARCHIVES / file.name).exists()


def test_a_year_of_nights_leaves_seven_days_four_weeks_twelve_months(store: Database, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mine.db").touch()
    for day in range(400):
        (folder / f"{NOON - timedelta(days=day):%Y%m%dT%H%M%SZ}.db").touch()
    (folder / f"{NOON:%Y%m%dT%H%M%SZ}.db").unlink()
    done = rotate(file_of(store), folder, POLICY, NOON)
    left = sorted(path.name for path in folder.glob("*Z.db"))
    assert len(left) == 7 + 2 + 11  # two weeks and a month are among the days already
    assert len(done.removed) == 400 - len(left)
    assert (folder / "mine.db").exists()
    assert left[-1] == "20260331T120000Z.db"
    assert left[0] == "20250430T120000Z.db"


@given(
    days=st.lists(st.integers(0, 900), min_size=1, max_size=60, unique=True),
    daily=st.integers(0, 10), weekly=st.integers(0, 6), monthly=st.integers(0, 14),
)  # fmt: skip
def test_nightly_thinning_keeps_what_one_thinning_would(
    days: list[int], daily: int, weekly: int, monthly: int
) -> None:
    policy = BackupConfig(daily=daily, weekly=weekly, monthly=monthly)
    kept: set[datetime] = set()
    for day in sorted(days):
        kept = chosen([*kept, NOON + timedelta(days=day)], policy)
    everything = [NOON + timedelta(days=day) for day in days]
    assert max(everything) in kept
    assert len(kept) <= max(daily + weekly + monthly, 1)
    assert {at.date() for at in sorted(everything)[-daily:]} <= {at.date() for at in kept} or not daily


def test_the_verbs(store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roll(store, tmp_path / "archive")
    (tmp_path / "config.toml").write_text(
        f'[store]\nurl = "sqlite:///{file_of(store)}"\n[backup]\nfolder = "nights"\n[live]\nfolder = "."\n'
    )
    cli = CliRunner()
    done = cli.invoke(build(), ["db", "backup"])
    assert done.exit_code == 0, done.output
    assert "2 new archives, 0 old copies removed" in done.output
    (copy,) = (tmp_path / "nights").glob("*.db")
    shutil.rmtree(tmp_path / "archive")
    missing = cli.invoke(build(), ["db", "backup", "--to", "elsewhere"])
    assert missing.exit_code == 1
    store.close()
    done = cli.invoke(build(), ["db", "restore", str(copy)])
    assert done.exit_code == 0, done.output
    assert done.output.count("put back: ") == 2
    with closing(open_database(f"sqlite:///{file_of(store)}")) as again:
        assert len(list(read_journal(again, "run-1"))) == 60
        with again.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM journal")).scalar_one() == 20
