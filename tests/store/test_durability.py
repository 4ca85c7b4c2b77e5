"""Commits before orders are synced to the disk, and failed commits are retried."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from agent.core.errors import SafetyError, StoreUnavailable
from agent.core.events import RiskEvent, RiskState
from agent.store.database import LONGEST_LOG, Database
from agent.store.journal import Journal, read_journal
from agent.store.queries import find_run, list_runs
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from agent.store.tables import DECISIONS
from tests.store.store_samples import T0, a_run, pause_commands


def pragma(database: Database, name: str) -> Any:
    with database.write() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_sync_commits_switches_all_connections_to_full_synchronous(sqlite_database: Database) -> None:
    assert pragma(sqlite_database, "synchronous") == 1
    Recorder(sqlite_database, a_run())
    sqlite_database.sync_commits()
    assert sqlite_database.synced
    assert (pragma(sqlite_database, "synchronous"), pragma(sqlite_database, "journal_mode")) == (2, "wal")
    with sqlite_database.read() as one, sqlite_database.read() as other:  # also connections opened later
        assert [c.exec_driver_sql("PRAGMA synchronous").scalar() for c in (one, other)] == [2, 2]


def test_commits_leave_the_log_to_checkpoint(sqlite_database: Database) -> None:
    database = sqlite_database
    file = database.file
    assert file is not None
    logged = Path(f"{file}-wal")

    def write_pages(number: int) -> None:
        for _ in range(number // 500):
            with database.write() as connection:
                connection.exec_driver_sql("INSERT INTO filler VALUES (randomblob(2000000))")

    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE filler (content BLOB)")
    write_pages(2_000)
    assert file.stat().st_size > 4_000_000  # a commit has copied it
    database.checkpoint_separately()
    database.checkpoint()
    size = file.stat().st_size
    write_pages(3_000)
    assert file.stat().st_size == size
    assert logged.stat().st_size > 10_000_000
    database.checkpoint()
    assert file.stat().st_size > size + 10_000_000
    write_pages(LONGEST_LOG + 1_000)  # `checkpoint` was not called for long
    assert file.stat().st_size > size + 70_000_000


@pytest.mark.parametrize("access", [Database.checkpoint, list_runs, find_run])
def test_nothing_creates_a_file_in_place_of_one_that_was_moved(
    access: Callable[[Database], object], sqlite_database: Database, tmp_path: Path
) -> None:
    database = sqlite_database
    file = database.file
    assert file is not None
    Recorder(database, a_run())
    database.engine.dispose()  # no connection is left that knows the file
    file.rename(tmp_path / "moved.db")
    with pytest.raises(StoreUnavailable, match="the file is gone"):
        access(database)
    assert not file.exists()
    (tmp_path / "moved.db").rename(file)
    access(database)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_with_synchronous_commit_off_is_refused(database: Database) -> None:
    database.sync_commits()  # the test server runs with fsync=off, which is only logged
    assert not database.synced
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ALTER ROLE tapewire SET synchronous_commit = off")
        connection.commit()
    database.engine.dispose()
    try:
        with pytest.raises(SafetyError, match="synchronous_commit is off"):
            database.sync_commits()
    finally:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("ALTER ROLE tapewire RESET synchronous_commit")
            connection.commit()


@contextmanager
def failing_fsync(database: Database, *, written: bool) -> Iterator[list[str]]:
    """Let every commit, made (`written`) or not, fail with SQLITE_IOERR_FSYNC; yield the attempts."""
    tried: list[str] = []
    dialect: Any = database.engine.dialect
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        tried.append("commit")
        if written:
            commit(connection)
        else:
            dialect.do_rollback(connection)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    dialect.do_commit = do_commit
    try:
        yield tried
    finally:
        dialect.do_commit = commit


@pytest.mark.parametrize("written", [True, False])
def test_after_a_failed_fsync_a_retry_reads_the_journal_and_commits_again(
    sqlite_database: Database, written: bool
) -> None:
    Recorder(sqlite_database, a_run(kind=RunKind.LIVE))
    run_journal = Journal(sqlite_database, "run-1")
    run_journal.append(pause_commands(3))
    with failing_fsync(sqlite_database, written=written) as tried:
        with pytest.raises(StoreUnavailable, match="the disk failed"):
            run_journal.append(pause_commands(2))
        assert run_journal.last_seq == 3
        for _ in range(2):  # rows found in the file may exist only in the system's cache
            with pytest.raises(StoreUnavailable):
                run_journal.append(pause_commands(2), again=True)
        assert len(tried) == 3
        assert run_journal.last_seq == 3
    assert run_journal.append(pause_commands(2), again=True) == 4
    assert run_journal.last_seq == 5
    assert [seq for seq, _ in read_journal(sqlite_database, "run-1")] == [1, 2, 3, 4, 5]
    assert run_journal.digest == Journal(sqlite_database, "run-1").digest


@pytest.mark.parametrize("written", [True, False])
def test_after_a_failed_fsync_a_retry_commits_decisions_once(
    sqlite_database: Database, written: bool
) -> None:
    recorder = Recorder(sqlite_database, a_run(kind=RunKind.LIVE), batch=None)
    recorder.decision(RiskEvent(T0, RiskState.REDUCING, "command", "test"))
    with failing_fsync(sqlite_database, written=written) as tried:
        for again in (False, True, True):
            with pytest.raises(StoreUnavailable):
                recorder.flush(again=again)
        assert len(tried) == 3
    recorder.flush(again=True)
    recorder.flush()
    table = DECISIONS[RiskEvent]
    with sqlite_database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(table)) == 1
