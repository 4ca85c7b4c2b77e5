"""What is committed before orders leave is on the disk; a commit whose answer was an error is known only after the next one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select

from agent.core.errors import SafetyError, StoreUnavailable
from agent.core.events import RiskEvent, RiskState
from agent.store.database import Database
from agent.store.journal import Journal, read_journal
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from agent.store.tables import DECISIONS
from tests.store.samples import T0, a_run
from tests.store.test_backup import words


def setting(database: Database, name: str) -> Any:
    with database.write() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_commits_are_synced_once_orders_may_follow_from_them(sqlite_database: Database) -> None:
    assert setting(sqlite_database, "synchronous") == 1
    Recorder(sqlite_database, a_run())
    sqlite_database.sync_commits()
    assert sqlite_database.synced
    assert (setting(sqlite_database, "synchronous"), setting(sqlite_database, "journal_mode")) == (2, "wal")
    with sqlite_database.read() as one, sqlite_database.read() as other:  # every connection, also later ones
        assert [c.exec_driver_sql("PRAGMA synchronous").scalar() for c in (one, other)] == [2, 2]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_does_not_wait_for_its_disk_is_refused(database: Database) -> None:
    database.sync_commits()  # the cluster of the tests runs with fsync=off, which is logged
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
    """The driver reports SQLITE_IOERR_FSYNC for every commit, which has happened or not; yields what was tried."""
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
def test_after_a_failed_fsync_the_journal_is_read_again_and_committed_again(
    sqlite_database: Database, written: bool
) -> None:
    Recorder(sqlite_database, a_run(kind=RunKind.LIVE))
    lines = Journal(sqlite_database, "run-1")
    lines.append(words(3))
    with failing_fsync(sqlite_database, written=written) as tried:
        with pytest.raises(StoreUnavailable, match="the disk failed"):
            lines.append(words(2))
        assert lines.last_seq == 3
        for _ in range(2):  # what is found in the file may be in the cache alone
            with pytest.raises(StoreUnavailable):
                lines.append(words(2), again=True)
        assert len(tried) == 3
        assert lines.last_seq == 3
    assert lines.append(words(2), again=True) == 4
    assert lines.last_seq == 5
    assert [seq for seq, _ in read_journal(sqlite_database, "run-1")] == [1, 2, 3, 4, 5]
    assert lines.digest == Journal(sqlite_database, "run-1").digest


@pytest.mark.parametrize("written", [True, False])
def test_after_a_failed_fsync_decisions_are_committed_again(sqlite_database: Database, written: bool) -> None:
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
