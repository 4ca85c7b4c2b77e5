"""The store's files are private, whatever the umask is, and unfinished copies are removed."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.store.backup import back_up, restore_backup
from agent.store.commit_mark import CommitMark, CommitMarkFile, mark_beside
from agent.store.database import open_database, upgrade
from agent.store.journal import Journal
from agent.store.journal_archive import archivable_runs, archive_journal
from agent.store.lock import LOCK, file_lock, instance_lock
from agent.store.private_files import remove_abandoned
from agent.store.recorder import Recorder
from agent.store.runs import RunKind, RunStatus
from agent.system.clock import WallClock
from tests.store.store_samples import T0, a_run, pause_commands


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_every_file_and_folder_of_the_store_is_private(tmp_path: Path) -> None:
    home = tmp_path / "var" / "deep"
    store = home / "store.db"
    run = a_run(kind=RunKind.LIVE, status=RunStatus.COMPLETE, finished_at=T0)
    with closing(open_database(f"sqlite:///{store}")) as database:
        Recorder(database, run)
        Journal(database, "run-1").append(pause_commands(10))
        CommitMarkFile(mark_beside(store), sync_every=0).write(CommitMark("run-1", 10))
        back_up(store, tmp_path / "backups" / "copy.db")
        (one,) = archivable_runs(database, T0 + 1)
        archive_journal(database, one, tmp_path / "archive", WallClock())
        with instance_lock(tmp_path / "live" / LOCK), file_lock(store, tmp_path / "live"):
            pass
        modes = _modes(tmp_path)
        assert {"store.db", "store.db-wal", "store.db-shm", "store.db.mark", "store.db.lock"} <= {
            path.name for path in modes
        }
    restore_backup(tmp_path / "backups" / "copy.db", store)
    modes |= _modes(tmp_path)
    assert len(modes) >= 14
    wrong = {
        str(path): oct(mode)
        for path, mode in modes.items()
        if mode != (0o700 if path.suffix == "" else 0o600)
    }
    assert wrong == {}


def _modes(folder: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)  # independent of the umask
    open_database(f"sqlite:///{tmp_path / 'shared' / 'store.db'}").close()
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


def leave_copy(folder: Path, name: str, *, age: float = 3_600.0) -> Path:
    """Create the file that a killed copy leaves, by default an hour old."""
    path = folder / name
    path.write_bytes(b"half a store")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_an_abandoned_copy_is_removed_by_the_next_backup_or_upgrade(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    open_database(f"sqlite:///{store}").close()
    for number, again in enumerate(
        (lambda: upgrade(f"sqlite:///{store}"), lambda: back_up(store, tmp_path / "b" / "copy.db"))
    ):
        left = leave_copy(tmp_path, f".store.db.0002-2025010{number}T000000Z.backup.unfinished")
        side = leave_copy(tmp_path, f"{left.name}-journal")
        again()
        assert not left.exists()
        assert not side.exists()


def test_an_unfinished_copy_in_use_is_not_removed(tmp_path: Path) -> None:
    locked = leave_copy(tmp_path, ".a.unfinished")
    fresh = leave_copy(tmp_path, ".b.unfinished", age=1)
    mine = [leave_copy(tmp_path, name) for name in ("c.unfinished", ".d.unfinished.txt", ".e")]
    gone = leave_copy(tmp_path, ".f.unfinished")
    with locked.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_abandoned(tmp_path) == [gone]
    assert all(path.exists() for path in (locked, fresh, *mine))
    assert remove_abandoned(tmp_path) == [locked]
    assert remove_abandoned(tmp_path / "nowhere") == []
