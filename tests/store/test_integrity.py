"""Lost commits and altered inputs are detected, even if SQLite finds no damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from math import inf
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from agent.core.errors import StoreError, TapewireError
from agent.core.events import DAY_MS
from agent.store.backup import back_up, restore_backup
from agent.store.chain import JournalDigest
from agent.store.commit_mark import CommitMark, CommitMarkFile, mark_beside
from agent.store.database import Database, open_database
from agent.store.integrity import LostCommits, check_store, find_lost_commits, mark_path
from agent.store.journal import Journal, digest_at, encode, read_journal
from agent.store.journal_archive import archivable_runs, archive_journal, prune_journal
from agent.store.queries import list_runs
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from agent.store.tables import journal, journal_digests
from agent.system.clock import WallClock
from tests.store.store_damage import as_killed, flip_bytes, flip_wal_byte, halve_wal, payloads, wal_of
from tests.store.store_samples import T0, a_run, pause_commands


def record(database: Database, count: int, *, batch: int = 7, run: str = "run-1") -> Journal:
    """Commit `count` more events of a live run, with a mark after each commit."""
    if not any(one.id == run for one in list_runs(database)):
        Recorder(database, a_run(run, kind=RunKind.LIVE))
    run_journal, path = Journal(database, run), mark_path(database)
    assert path is not None
    mark = CommitMarkFile(path, sync_every=inf)
    for first in range(0, count, batch):
        run_journal.append(pause_commands(min(batch, count - first), first))
        mark.write(CommitMark(run, run_journal.last_seq, run_journal.digest.hex()))
    mark.close()
    return run_journal


@pytest.fixture
def store(sqlite_database: Database) -> Path:
    """An open store of 904 events, nearly all of them in the write-ahead log."""
    record(sqlite_database, 904)
    assert sqlite_database.file is not None
    return sqlite_database.file


def lost_commits(file: Path, only: str = "") -> LostCommits | None:
    with closing(open_database(f"sqlite:///{file}")) as database:
        return find_lost_commits(database, mark_beside(file), only)


def test_a_killed_process_loses_no_commits(store: Path, tmp_path: Path) -> None:
    assert lost_commits(as_killed(store, tmp_path / "copy")) is None


@pytest.mark.parametrize("damage", [halve_wal, flip_wal_byte])
def test_lost_commits_at_the_end_are_counted(
    store: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = as_killed(store, tmp_path / "copy")
    damage(copy)
    lost = lost_commits(copy)
    assert lost is not None
    assert (lost.run, lost.expected_seq) == ("run-1", 904)
    assert 0 < lost.found_seq < 904
    number = 904 - lost.found_seq
    first = lost.found_seq + 1
    events = f"{number:,} events that run run-1 had committed ({first:,}…904)"
    assert lost.message == f"the store lacks the last {events}"
    assert lost_commits(copy, "run-1") == lost
    assert lost_commits(copy, "run-2") is None


def test_a_store_whose_wal_was_removed_is_not_opened_as_empty(store: Path, tmp_path: Path) -> None:
    copy = as_killed(store, tmp_path / "copy")
    wal_of(copy).unlink()
    for create in (True, False):
        with pytest.raises(
            StoreError, match=r"it is empty, though 904 events of run run-1 were committed to it"
        ):
            open_database(f"sqlite:///{copy}", create=create)
    copy.unlink()
    with pytest.raises(StoreError, match=r"remove .*store\.db\.mark"):
        open_database(f"sqlite:///{copy}")
    assert not copy.exists()
    mark_beside(copy).unlink()
    open_database(f"sqlite:///{copy}").close()


def test_a_store_that_is_ahead_of_its_mark_has_lost_nothing(store: Path, sqlite_database: Database) -> None:
    Journal(sqlite_database, "run-1").append(pause_commands(200, 904))  # killed before the mark was written
    assert lost_commits(store) is None


def test_an_altered_event_before_the_mark_is_detected(store: Path, sqlite_database: Database) -> None:
    with sqlite_database.write() as connection:
        other = update(journal).where(journal.c.seq == 500).values(payload=encode(pause_commands(1, 1)[0]))
        connection.execute(other)
    lost = lost_commits(store)
    assert lost is not None
    assert lost.message == "the events of run run-1 up to event 904 are not those that were committed"


def test_a_marked_run_that_is_not_in_the_store_is_missing(store: Path, sqlite_database: Database) -> None:
    mark = CommitMarkFile(mark_beside(store), sync_every=0)
    mark.write(CommitMark("run-9", 12, "00"))
    mark.close()
    lost = lost_commits(store)
    assert lost is not None
    assert lost.missing
    assert "does not hold run run-9, of which 12 events" in lost.message


def test_with_a_damaged_mark_the_number_of_commits_is_unknown(store: Path) -> None:
    mark_beside(store).write_bytes(b"x" * 1024)
    lost = lost_commits(store)
    assert lost is not None
    assert "how many events were committed is not known" in lost.message


# -- backups -------------------------------------------------------------------------------------------------


def test_commits_lost_by_a_restore_are_reported(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    back_up(store, tmp_path / "monday.db")
    record(sqlite_database, 100)
    sqlite_database.close()
    restore_backup(tmp_path / "monday.db", store)
    lost = lost_commits(store)
    assert lost is not None
    assert (lost.found_seq, lost.expected_seq) == (904, 1_004)
    assert lost.message.startswith("the store was restored from a backup of 20")
    assert lost.message.endswith("(monday.db); the record of run run-1 ends at event 904 of 1,004")


def test_a_restored_backup_with_all_commits_has_lost_nothing(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    back_up(store, tmp_path / "monday.db")
    sqlite_database.close()
    restore_backup(tmp_path / "monday.db", store)
    assert lost_commits(store) is None


def test_after_a_restore_without_a_mark_the_loss_is_unknown(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    back_up(store, tmp_path / "monday.db")
    sqlite_database.close()
    restore_backup(tmp_path / "monday.db", tmp_path / "new" / "store.db")
    lost = lost_commits(tmp_path / "new" / "store.db")
    assert lost is not None
    assert lost.message.endswith(
        "the record of run run-1 ends at event 904; how much is missing is not known"
    )


def test_a_restored_backup_without_the_run_is_reported(sqlite_database: Database, tmp_path: Path) -> None:
    assert sqlite_database.file is not None
    back_up(sqlite_database.file, tmp_path / "empty.db")
    record(sqlite_database, 20)
    sqlite_database.close()
    restore_backup(tmp_path / "empty.db", sqlite_database.file)
    lost = lost_commits(sqlite_database.file)
    assert lost is not None
    assert lost.missing
    assert lost.restored


# -- digests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [97, 1_000, 2_500])
def test_the_digest_does_not_depend_on_the_batches(database: Database, batch: int) -> None:
    events = pause_commands(2_345)
    Recorder(database, a_run("run-1", kind=RunKind.LIVE))
    for first in range(0, len(events), batch):
        run_journal = Journal(database, "run-1")  # as after a restart
        run_journal.append(events[first : first + batch])
    run_journal.seal()
    run_journal.seal()
    expected = JournalDigest()
    for event in events:
        expected.add(encode(event))
    assert run_journal.digest == expected.digest == digest_at(database, "run-1", 2_345)
    with database.read() as connection:
        stored = connection.execute(journal_digests.select().order_by(journal_digests.c.seq)).all()
    assert [row.seq for row in stored] == [1_000, 2_000, 2_345]
    assert stored[-1].digest == expected.digest
    assert len(list(read_journal(database, "run-1"))) == 2_345


@pytest.mark.parametrize(
    ("seq", "first", "last"), [(1, 1, 1_000), (1_000, 1, 1_000), (1_001, 1_001, 2_000), (2_345, 2_001, 2_345)]
)
def test_an_altered_input_is_located_by_its_block(
    database: Database, seq: int, first: int, last: int
) -> None:
    Recorder(database, a_run("run-1", kind=RunKind.LIVE))
    run_journal = Journal(database, "run-1")
    run_journal.append(pause_commands(2_345))
    run_journal.seal()
    with database.write() as connection:
        connection.execute(
            update(journal).where(journal.c.seq == seq).values(payload=encode(pause_commands(1, 7_777)[0]))
        )
    with pytest.raises(
        StoreError,
        match=f"damaged between event {first} and event {last}: an input is not what was committed",
    ):
        list(read_journal(database, "run-1"))


def test_a_run_begun_without_digests_is_covered_from_its_next_block_on(database: Database) -> None:
    Recorder(database, a_run("run-1", kind=RunKind.LIVE))
    Journal(database, "run-1").append(pause_commands(2_345))
    with database.write() as connection:
        connection.execute(delete(journal_digests))
    assert digest_at(database, "run-1", 2_345) is None
    for first in (0, 700):
        Journal(database, "run-1").append(pause_commands(700, first))
    assert len(list(read_journal(database, "run-1"))) == 3_745
    assert digest_at(database, "run-1", 3_745) == Journal(database, "run-1").digest
    with database.write() as connection:
        connection.execute(
            update(journal).where(journal.c.seq == 2_900).values(payload=encode(pause_commands(1, 7_777)[0]))
        )
    with pytest.raises(StoreError, match="damaged between event 2001 and event 3000"):
        list(read_journal(database, "run-1"))


def test_flipped_bytes_that_change_an_input_are_always_detected(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    record(sqlite_database, 2_000)
    Journal(sqlite_database, "run-1").seal()
    sqlite_database.close()
    before, rng = payloads(store), random.Random(64)
    changed = 0
    for number in range(24):
        copy = as_killed(store, tmp_path / f"copy-{number}")
        page = rng.randrange(1, copy.stat().st_size // 4096)
        flip_bytes(copy, page * 4096 + rng.randrange(4096 - 64), 64, rng)
        if payloads(copy) == before:
            continue
        changed += 1
        with pytest.raises(TapewireError), closing(open_database(f"sqlite:///{copy}")) as database:
            check_store(database, tmp_path, full=True)
    assert changed > 8


# -- checks of a store ---------------------------------------------------------------------------------------


def test_an_intact_store_passes_both_checks(store: Path, sqlite_database: Database, tmp_path: Path) -> None:
    quick = check_store(sqlite_database, tmp_path)
    assert quick == "its pages are sound, the store holds everything that the last live run committed"
    assert check_store(sqlite_database, tmp_path, full=True).endswith(
        "904 journal events match their digests"
    )


@pytest.mark.slow
def test_the_quick_check_detects_a_damaged_page(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    sqlite_database.close()
    rng = random.Random(1)
    for page in range(2, store.stat().st_size // 4096):
        copy = as_killed(store, tmp_path / f"copy-{page}")
        flip_bytes(copy, page * 4096, 12, rng)  # the page's header
        with pytest.raises(TapewireError), closing(open_database(f"sqlite:///{copy}")) as database:
            check_store(database, tmp_path)


def test_the_quick_check_reports_that_it_ran_out_of_time(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    record(sqlite_database, 20_000, batch=5_000)
    assert "0 s of the quick check found nothing" in check_store(sqlite_database, tmp_path, limit=0)


def test_an_event_stored_as_text_is_reported_as_damaged(store: Path, sqlite_database: Database) -> None:
    with sqlite_database.write() as connection:
        connection.exec_driver_sql("UPDATE journal SET payload = 'text' WHERE seq = 902")
    with pytest.raises(StoreError, match="event 902 is damaged"):
        Journal(sqlite_database, "run-1")


def test_a_missing_archive_does_not_count_as_lost_commits(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    """Readers check the archive by its own hash; the mark covers the store's rows."""
    with sqlite_database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET status = 'complete', finished_at = started_at, last_event_at = started_at"
        )
    (chosen,) = archivable_runs(sqlite_database, T0 + 10 * DAY_MS)
    made = archive_journal(sqlite_database, chosen, tmp_path, WallClock())
    prune_journal(sqlite_database, "run-1", WallClock())
    Path(made.path).unlink()
    assert lost_commits(store) is None
