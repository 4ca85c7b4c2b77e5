"""Journals moved to parquet: the same bits, named by their hash, and nothing pruned that isn't safe elsewhere."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from agent.core.errors import StoreError
from agent.core.events import Command, Event
from agent.store import archive as module
from agent.store.archive import archive_journal, candidates, prune
from agent.store.database import Database, open_database
from agent.store.journal import Journal, encode, find_archive, read_journal, read_rows
from agent.store.recorder import Recorder
from agent.store.runs import RunKind, RunStatus
from agent.store.tables import journal, runs
from tests.store.samples import EVENTS, T0, a_run, structs

DAY = 86_400_000


class Now:
    def now(self) -> int:
        return T0 + 100 * DAY


def words(count: int) -> list[Event]:
    return [Command("pause", T0 + n, T0 + n, {"n": str(n)}, "test") for n in range(count)]


def lived(
    database: Database, name: str, day: int, status: RunStatus = RunStatus.COMPLETE, count: int = 50
) -> None:
    """A live run that ended on that day."""
    Recorder(database, a_run(name, kind=RunKind.LIVE))
    Journal(database, name).append(words(count))
    with database.write() as connection:
        connection.execute(
            runs.update().where(runs.c.id == name).values(status=status, finished_at=T0 + day * DAY)
        )


def stored(database: Database, name: str) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).where(journal.c.run_id == name)) or 0


def only(database: Database, name: str) -> module.Candidate:
    (found,) = (one for one in candidates(database, T0 + 99 * DAY, unfinished=True) if one.run.id == name)
    return found


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
def test_which_runs_are_chosen(database: Database, status: RunStatus, unfinished: bool, chosen: bool) -> None:
    lived(database, "run-1", 10, status)
    lived(database, "late", 30)
    Recorder(database, a_run("backtest"))
    found = [one.run.id for one in candidates(database, T0 + 20 * DAY, unfinished=unfinished)]
    assert found == (["run-1"] if chosen else [])


def test_an_archive_is_the_journal_bit_for_bit_also_once_the_store_forgot_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 20)
    lived(database, "run-1", 10)
    lived(database, "other", 10)
    before = list(read_rows(database, "run-1"))
    told: list[int] = []
    made = archive_journal(database, only(database, "run-1"), tmp_path / "past", Now(), told.append)
    assert sum(told) == 100  # written, compared
    assert (made.events, made.pruned_at, made.size) == (50, None, Path(made.path).stat().st_size)
    assert stored(database, "run-1") == 50
    assert prune(database, "run-1", Now()) == 50
    assert stored(database, "run-1") == 0
    assert stored(database, "other") == 50
    assert list(read_rows(database, "run-1")) == before
    assert [seq for seq, _ in read_journal(database, "run-1", 30)] == list(range(30, 51))
    metadata = pq.read_schema(made.path).metadata
    assert metadata[b"format"] == b"tapewire.journal.1"
    assert b'"run-1"' in metadata[b"run"]


@given(st.lists(st.one_of([structs(kind) for kind in EVENTS]), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happened_comes_back(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    folder = tmp_path_factory.mktemp("store")
    with closing(open_database(f"sqlite:///{folder / 'store.db'}")) as database:
        lived(database, "run-1", 1, count=0)
        Journal(database, "run-1").append(events)
        archive_journal(database, only(database, "run-1"), folder, Now())
        prune(database, "run-1", Now())
        assert [encode(event) for _, event in read_journal(database, "run-1")] == [
            encode(event) for event in events
        ]


@pytest.fixture
def archived(database: Database, tmp_path: Path) -> Path:
    """The file; its rows are in the store too."""
    lived(database, "run-1", 10)
    return Path(archive_journal(database, only(database, "run-1"), tmp_path / "past", Now()).path)


def test_what_is_archived_already_stays(database: Database, archived: Path, tmp_path: Path) -> None:
    first, written = find_archive(database, "run-1"), archived.stat().st_mtime_ns
    assert archive_journal(database, only(database, "run-1"), tmp_path / "elsewhere", Now()) == first
    assert archived.stat().st_mtime_ns == written
    prune(database, "run-1", Now())
    assert prune(database, "run-1", Now()) == 0


@pytest.mark.parametrize("pruned", [False, True])
def test_an_archive_that_is_gone_or_was_changed(database: Database, archived: Path, pruned: bool) -> None:
    if pruned:
        prune(database, "run-1", Now())
    content = archived.read_bytes()
    for spoil, said in ((b"", r"is not there"), (content[:-1] + b"!", "has changed")):
        if spoil:
            archived.write_bytes(spoil)
        else:
            archived.unlink()
        if pruned:
            with pytest.raises(StoreError, match=said):
                list(read_journal(database, "run-1"))
        else:
            with pytest.raises(StoreError, match=said):
                prune(database, "run-1", Now())
            assert len(list(read_journal(database, "run-1"))) == 50
    archived.write_bytes(content)
    assert len(list(read_journal(database, "run-1"))) == 50


def test_a_store_that_differs_from_the_archive_is_not_pruned(database: Database, archived: Path) -> None:
    with database.write() as connection:
        connection.execute(journal.update().where(journal.c.seq == 7).values(available_at=1))
    with pytest.raises(StoreError, match="does not hold event 7 of run run-1 as the store does"):
        prune(database, "run-1", Now())
    assert stored(database, "run-1") == 50


def test_a_journal_with_a_hole_is_not_archived(database: Database, tmp_path: Path) -> None:
    lived(database, "run-1", 10)
    with database.write() as connection:
        connection.execute(journal.delete().where(journal.c.seq == 7))
    with pytest.raises(StoreError, match="event 7"):
        archive_journal(database, only(database, "run-1"), tmp_path, Now())
    assert find_archive(database, "run-1") is None


def test_pruning_that_was_broken_off_is_gone_on_with(
    database: Database, archived: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 20)

    def power_cut(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(database, "run-1", Now(), power_cut)
    assert stored(database, "run-1") == 30
    assert len(list(read_journal(database, "run-1"))) == 50
    assert only(database, "run-1").stored == 30
    assert prune(database, "run-1", Now()) == 30


def test_an_archive_that_was_moved_is_found_in_the_folder_that_is_named(
    database: Database, archived: Path, tmp_path: Path
) -> None:
    prune(database, "run-1", Now())
    new = tmp_path / "new" / archived.name
    new.parent.mkdir()
    new.write_bytes(b"another file")
    content = archived.read_bytes()
    archived.unlink()
    with pytest.raises(StoreError, match="has changed"):
        archive_journal(database, only(database, "run-1"), new.parent, Now())
    new.write_bytes(content)
    assert archive_journal(database, only(database, "run-1"), new.parent, Now()).path == str(new)
    assert len(list(read_journal(database, "run-1"))) == 50
