"""Archives hold the same bytes as the journal, and rows are pruned only if the archive is intact."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from agent.core.errors import StoreError
from agent.core.events import Event
from agent.store import journal_archive as module
from agent.store.database import Database, open_database
from agent.store.journal import Journal, encode, find_archive, read_journal, read_journal_rows
from agent.store.journal_archive import archivable_runs, archive_journal, prune_journal
from agent.store.recorder import Recorder
from agent.store.runs import RunKind, RunStatus
from agent.store.tables import journal, runs
from tests.store.store_samples import EVENTS, T0, a_run, pause_commands, structs

DAY = 86_400_000


class FixedNow:
    def now(self) -> int:
        return T0 + 100 * DAY


def record_ended_run(
    database: Database, name: str, day: int, status: RunStatus = RunStatus.COMPLETE, count: int = 50
) -> None:
    """Record a live run that ended on the given day."""
    Recorder(database, a_run(name, kind=RunKind.LIVE))
    Journal(database, name).append(pause_commands(count))
    with database.write() as connection:
        connection.execute(
            runs.update().where(runs.c.id == name).values(status=status, finished_at=T0 + day * DAY)
        )


def stored_rows(database: Database, name: str) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).where(journal.c.run_id == name)) or 0


def archivable_run(database: Database, name: str) -> module.ArchivableRun:
    (found,) = (
        one for one in archivable_runs(database, T0 + 99 * DAY, unfinished=True) if one.run.id == name
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "unfinished", "chosen"),
    [
        (RunStatus.COMPLETE, False, True),
        (RunStatus.COMPLETE, True, True),
        (RunStatus.INTERRUPTED, False, False),
        (RunStatus.INTERRUPTED, True, True),
        (RunStatus.FAILED, True, True),
        (RunStatus.RUNNING, True, False),
    ],
)
def test_which_runs_are_archivable(
    database: Database, status: RunStatus, unfinished: bool, chosen: bool
) -> None:
    record_ended_run(database, "run-1", 10, status)
    record_ended_run(database, "late", 30)
    Recorder(database, a_run("backtest"))
    found = [one.run.id for one in archivable_runs(database, T0 + 20 * DAY, unfinished=unfinished)]
    assert found == (["run-1"] if chosen else [])


def test_an_archive_equals_the_journal_before_and_after_pruning(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 20)
    record_ended_run(database, "run-1", 10)
    record_ended_run(database, "other", 10)
    before = list(read_journal_rows(database, "run-1"))
    progress: list[int] = []
    made = archive_journal(
        database, archivable_run(database, "run-1"), tmp_path / "past", FixedNow(), progress.append
    )
    assert sum(progress) == 100  # once for writing, once for comparing
    assert (made.events, made.pruned_at, made.size) == (50, None, Path(made.path).stat().st_size)
    assert stored_rows(database, "run-1") == 50
    assert prune_journal(database, "run-1", FixedNow()) == 50
    assert stored_rows(database, "run-1") == 0
    assert stored_rows(database, "other") == 50
    assert list(read_journal_rows(database, "run-1")) == before
    assert [seq for seq, _ in read_journal(database, "run-1", 30)] == list(range(30, 51))
    metadata = pq.read_schema(made.path).metadata
    assert metadata[b"format"] == b"tapewire.journal.1"
    assert b'"run-1"' in metadata[b"run"]


@pytest.mark.slow
@given(st.lists(st.one_of([structs(kind) for kind in EVENTS]), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_kinds_of_events_survive_archiving(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with closing(open_database(f"sqlite:///{folder / 'store.db'}")) as database:
        record_ended_run(database, "run-1", 1, count=0)
        Journal(database, "run-1").append(events)
        archive_journal(database, archivable_run(database, "run-1"), folder, FixedNow())
        prune_journal(database, "run-1", FixedNow())
        assert [encode(event) for _, event in read_journal(database, "run-1")] == [
            encode(event) for event in events
        ]


@pytest.fixture
def archived(database: Database, tmp_path: Path) -> Path:
    """Path of an archive whose rows are still in the store."""
    record_ended_run(database, "run-1", 10)
    return Path(
        archive_journal(database, archivable_run(database, "run-1"), tmp_path / "past", FixedNow()).path
    )


def test_an_existing_archive_is_kept(database: Database, archived: Path, tmp_path: Path) -> None:
    first, written = find_archive(database, "run-1"), archived.stat().st_mtime_ns
    assert (
        archive_journal(database, archivable_run(database, "run-1"), tmp_path / "elsewhere", FixedNow())
        == first
    )
    assert archived.stat().st_mtime_ns == written
    prune_journal(database, "run-1", FixedNow())
    assert prune_journal(database, "run-1", FixedNow()) == 0


@pytest.mark.parametrize("pruned", [False, True])
def test_a_missing_or_changed_archive_is_an_error_when_it_is_needed(
    database: Database, archived: Path, pruned: bool
) -> None:
    if pruned:
        prune_journal(database, "run-1", FixedNow())
    content = archived.read_bytes()
    for damaged, message in ((b"", "does not exist"), (content[:-1] + b"!", "has changed")):
        if damaged:
            archived.write_bytes(damaged)
        else:
            archived.unlink()
        if pruned:
            with pytest.raises(StoreError, match=message):
                list(read_journal(database, "run-1"))
        else:
            with pytest.raises(StoreError, match=message):
                prune_journal(database, "run-1", FixedNow())
            assert len(list(read_journal(database, "run-1"))) == 50
    archived.write_bytes(content)
    assert len(list(read_journal(database, "run-1"))) == 50


def test_a_store_that_differs_from_the_archive_is_not_pruned(database: Database, archived: Path) -> None:
    with database.write() as connection:
        connection.execute(journal.update().where(journal.c.seq == 7).values(available_at=1))
    with pytest.raises(StoreError, match="event 7 of run run-1 differs between"):
        prune_journal(database, "run-1", FixedNow())
    assert stored_rows(database, "run-1") == 50


def test_a_journal_with_a_hole_is_not_archived(database: Database, tmp_path: Path) -> None:
    record_ended_run(database, "run-1", 10)
    with database.write() as connection:
        connection.execute(journal.delete().where(journal.c.seq == 7))
    with pytest.raises(StoreError, match="event 7"):
        archive_journal(database, archivable_run(database, "run-1"), tmp_path, FixedNow())
    assert find_archive(database, "run-1") is None


def test_interrupted_pruning_is_continued_by_the_next_call(
    database: Database, archived: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 20)

    def power_cut(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_journal(database, "run-1", FixedNow(), power_cut)
    assert stored_rows(database, "run-1") == 30
    assert len(list(read_journal(database, "run-1"))) == 50
    assert archivable_run(database, "run-1").stored == 30
    assert prune_journal(database, "run-1", FixedNow()) == 30


def test_a_moved_archive_is_found_in_the_given_folder(
    database: Database, archived: Path, tmp_path: Path
) -> None:
    prune_journal(database, "run-1", FixedNow())
    new = tmp_path / "new" / archived.name
    new.parent.mkdir()
    new.write_bytes(b"another file")
    content = archived.read_bytes()
    archived.unlink()
    with pytest.raises(StoreError, match="has changed"):
        archive_journal(database, archivable_run(database, "run-1"), new.parent, FixedNow())
    new.write_bytes(content)
    assert archive_journal(database, archivable_run(database, "run-1"), new.parent, FixedNow()).path == str(
        new
    )
    assert len(list(read_journal(database, "run-1"))) == 50
