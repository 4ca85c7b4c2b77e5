"""Nightly backups store each archive once, keep fewer of the older copies, and can be restored."""

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

from agent.config.control import BackupConfig
from agent.core.errors import StoreError
from agent.store.backup import restore_backup
from agent.store.backup_rotation import ARCHIVES, restore_archives, rotate, select_kept
from agent.store.database import Database, open_database
from agent.store.journal import encode, find_segments, read_journal
from agent.store.journal_segments import roll_over
from agent.store.queries import find_run
from agent.store.state_snapshots import Snapshot, write_snapshot
from tests.store.test_journal_archive import FixedNow, record_ended_run
from tests.support.command_line import run_command

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
POLICY = BackupConfig()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'live' / 'store.db'}")) as database:
        record_ended_run(database, "run-1", 10, count=60)
        for seq in (20, 40):
            write_snapshot(database, "run-1", Snapshot(seq, 0, "f", "s", {}, boundary=True), 3)
        yield database


def roll_over_segments(store: Database, folder: Path) -> list[Path]:
    roll_over(store, find_run(store, "run-1"), folder, FixedNow(), lambda run, end: None)
    return [Path(segment.path) for segment in find_segments(store, "run-1")]


def file_of(store: Database) -> Path:
    assert store.file is not None
    return store.file


def test_each_archive_is_stored_once_in_the_backup_folder(store: Database, tmp_path: Path) -> None:
    files = roll_over_segments(store, tmp_path / "archive")
    first = rotate(file_of(store), tmp_path / "backups", POLICY, NOON)
    second = rotate(file_of(store), tmp_path / "backups", POLICY, NOON + timedelta(days=1))
    assert (first.added, second.added) == (2, 0)
    for file in files:
        assert os.path.samefile(file, tmp_path / "backups" / ARCHIVES / file.name)
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == [
        "20260331T120000Z.db",
        "20260401T120000Z.db",
        ARCHIVES,
    ]


def test_store_and_archives_of_a_lost_disk_can_be_restored(store: Database, tmp_path: Path) -> None:
    before = [(seq, encode(event)) for seq, event in read_journal(store, "run-1")]
    roll_over_segments(store, tmp_path / "archive")
    done = rotate(file_of(store), tmp_path / "backups", POLICY, NOON)
    store.close()
    shutil.rmtree(tmp_path / "archive")
    shutil.rmtree(tmp_path / "live")
    restore_backup(Path(done.holds.file), file_of(store))
    restored, missing = restore_archives(file_of(store), tmp_path / "backups" / ARCHIVES)
    assert (len(restored), missing) == (2, [])
    with closing(open_database(f"sqlite:///{file_of(store)}")) as again:
        assert [(seq, encode(event)) for seq, event in read_journal(again, "run-1")] == before


def test_a_missing_archive_is_reported(store: Database, tmp_path: Path) -> None:
    first, second = roll_over_segments(store, tmp_path / "archive")
    second.unlink()
    assert rotate(file_of(store), tmp_path / "backups", POLICY, NOON).missing == (str(second),)
    first.unlink()
    restored, missing = restore_archives(file_of(store), tmp_path / "backups" / ARCHIVES)
    assert (restored, missing) == ([first], [str(second)])


def test_a_damaged_archive_is_not_backed_up(store: Database, tmp_path: Path) -> None:
    file, _ = roll_over_segments(store, tmp_path / "archive")
    file.write_bytes(b"something else")
    with pytest.raises(StoreError, match="has changed"):
        rotate(file_of(store), tmp_path / "backups", POLICY, NOON)
    assert not (tmp_path / "backups" / ARCHIVES / file.name).exists()


def test_a_year_of_nightly_backups_leaves_seven_days_four_weeks_twelve_months(
    store: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mine.db").touch()
    for day in range(400):
        (folder / f"{NOON - timedelta(days=day):%Y%m%dT%H%M%SZ}.db").touch()
    (folder / f"{NOON:%Y%m%dT%H%M%SZ}.db").unlink()
    done = rotate(file_of(store), folder, POLICY, NOON)
    left = sorted(path.name for path in folder.glob("*Z.db"))
    assert len(left) == 7 + 2 + 11  # two weeks and one month coincide with the days
    assert len(done.removed) == 400 - len(left)
    assert (folder / "mine.db").exists()
    assert left[-1] == "20260331T120000Z.db"
    assert left[0] == "20250430T120000Z.db"


@given(
    days=st.lists(st.integers(0, 900), min_size=1, max_size=60, unique=True),
    daily=st.integers(0, 10),
    weekly=st.integers(0, 6),
    monthly=st.integers(0, 14),
)
def test_nightly_rotation_keeps_the_newest_copy_and_the_last_days(
    days: list[int], daily: int, weekly: int, monthly: int
) -> None:
    policy = BackupConfig(daily=daily, weekly=weekly, monthly=monthly)
    kept: set[datetime] = set()
    for day in sorted(days):
        kept = select_kept([*kept, NOON + timedelta(days=day)], policy)
    everything = [NOON + timedelta(days=day) for day in days]
    assert max(everything) in kept
    assert len(kept) <= max(daily + weekly + monthly, 1)
    assert {at.date() for at in sorted(everything)[-daily:]} <= {at.date() for at in kept} or not daily


def test_the_verbs(store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roll_over_segments(store, tmp_path / "archive")
    (tmp_path / "config.toml").write_text(
        f'[store]\nurl = "sqlite:///{file_of(store)}"\n[backup]\nfolder = "nights"\n[live]\nfolder = "."\n'
    )
    done = run_command(["db", "backup"])
    assert done.exit_code == 0, done.output
    assert "2 new archives, 0 old copies removed" in done.output
    (copy,) = (tmp_path / "nights").glob("*.db")
    shutil.rmtree(tmp_path / "archive")
    missing = run_command(["db", "backup", "--to", "elsewhere"])
    assert missing.exit_code == 1
    store.close()
    done = run_command(["db", "restore", str(copy)])
    assert done.exit_code == 0, done.output
    assert done.output.count("restored: ") == 2
    with closing(open_database(f"sqlite:///{file_of(store)}")) as again:
        assert len(list(read_journal(again, "run-1"))) == 60
        with again.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM journal")).scalar_one() == 20
