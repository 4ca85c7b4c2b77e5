"""A store that lost what was committed is noticed, though SQLite finds nothing wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from math import inf
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from agent.core.errors import StoreError, TapewireError
from agent.core.events import DAY_MS, Command, Event
from agent.store.archive import archive_journal, candidates, prune
from agent.store.backup import back_up, put_back
from agent.store.chain import JournalDigest
from agent.store.database import Database, open_database
from agent.store.gap import StoreGap, find_gap, mark_path
from agent.store.journal import Journal, digest_at, encode, read_journal
from agent.store.mark import Mark, MarkFile, mark_beside
from agent.store.queries import list_runs
from agent.store.recorder import Recorder
from agent.store.runs import RunKind
from agent.store.soundness import check_store
from agent.store.tables import journal, journal_digests
from agent.system.clock import WallClock
from tests.store.damage import as_killed, flip_bytes, flip_wal_byte, halve_wal, payloads, wal_of
from tests.store.samples import T0, a_run


def words(first: int, count: int) -> list[Event]:
    return [
        Command("pause", T0 + n, T0 + n, {"why": f"{n} " + "x" * 100}, "test")
        for n in range(first, first + count)
    ]


def record(database: Database, count: int, *, batch: int = 7, run: str = "run-1") -> Journal:
    """Commit `count` more events of a live run, with a mark after each commit."""
    if not any(one.id == run for one in list_runs(database)):
        Recorder(database, a_run(run, kind=RunKind.LIVE))
    lines, path = Journal(database, run), mark_path(database)
    assert path is not None
    mark = MarkFile(path, sync_every=inf)
    for first in range(0, count, batch):
        lines.append(words(first, min(batch, count - first)))
        mark.write(Mark(run, lines.last_seq, lines.digest.hex()))
    mark.close()
    return lines


@pytest.fixture
def store(sqlite_database: Database) -> Path:
    """A store of 904 events, nearly all of it in the write-ahead log, that is open."""
    record(sqlite_database, 904)
    assert sqlite_database.file is not None
    return sqlite_database.file


def gap_of(file: Path, only: str = "") -> StoreGap | None:
    with closing(open_database(f"sqlite:///{file}")) as database:
        return find_gap(database, mark_beside(file), only)


def test_a_store_as_it_was_killed_lacks_nothing(store: Path, tmp_path: Path) -> None:
    assert gap_of(as_killed(store, tmp_path / "copy")) is None


@pytest.mark.parametrize("damage", [halve_wal, flip_wal_byte])
def test_a_lost_tail_is_counted(store: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    copy = as_killed(store, tmp_path / "copy")
    damage(copy)
    gap = gap_of(copy)
    assert gap is not None
    assert (gap.run, gap.expected_seq) == ("run-1", 904)
    assert 0 < gap.found_seq < 904
    lost = 904 - gap.found_seq
    assert gap.message == (
        f"the store lacks the last {lost:,} events that run run-1 had committed ({gap.found_seq + 1:,}…904)"
    )
    assert gap_of(copy, "run-1") == gap
    assert gap_of(copy, "run-2") is None


def test_a_log_that_was_removed_leaves_no_empty_store_to_begin_in(store: Path, tmp_path: Path) -> None:
    copy = as_killed(store, tmp_path / "copy")
    wal_of(copy).unlink()
    for create in (True, False):
        with pytest.raises(
            StoreError, match=r"nothing in it, though 904 events of run run-1 were committed there"
        ):
            open_database(f"sqlite:///{copy}", create=create)
    copy.unlink()
    with pytest.raises(StoreError, match=r"remove .*store\.db\.mark"):
        open_database(f"sqlite:///{copy}")
    assert not copy.exists()
    mark_beside(copy).unlink()
    open_database(f"sqlite:///{copy}").close()


def test_a_store_that_ran_ahead_of_its_mark_is_whole(store: Path, sqlite_database: Database) -> None:
    Journal(sqlite_database, "run-1").append(words(904, 200))  # killed before the mark
    assert gap_of(store) is None


def test_another_past_is_noticed(store: Path, sqlite_database: Database) -> None:
    with sqlite_database.write() as connection:
        other = update(journal).where(journal.c.seq == 500).values(payload=encode(words(1, 1)[0]))
        connection.execute(other)
    gap = gap_of(store)
    assert gap is not None
    assert gap.message == "the events of run run-1 up to event 904 are not those that were committed"


def test_a_run_that_is_not_there_is_missing(store: Path, sqlite_database: Database) -> None:
    mark = MarkFile(mark_beside(store), sync_every=0)
    mark.write(Mark("run-9", 12, "00"))
    mark.close()
    gap = gap_of(store)
    assert gap is not None
    assert gap.missing
    assert "does not hold run run-9, of which 12 events" in gap.message


def test_a_mark_that_is_damaged_leaves_it_unknown(store: Path) -> None:
    mark_beside(store).write_bytes(b"x" * 1024)
    gap = gap_of(store)
    assert gap is not None
    assert "how far the run was recorded is not known" in gap.message


# -- backups -----------------------------------------------------------------------------------------------------------


def test_a_restored_backup_is_recognised(store: Path, sqlite_database: Database, tmp_path: Path) -> None:
    back_up(store, tmp_path / "monday.db")
    record(sqlite_database, 100)
    sqlite_database.close()
    put_back(tmp_path / "monday.db", store)
    gap = gap_of(store)
    assert gap is not None
    assert (gap.found_seq, gap.expected_seq) == (904, 1_004)
    assert gap.message.startswith("the store was restored from a backup of 20")
    assert gap.message.endswith("(monday.db); the record of run run-1 ends at event 904 of 1,004")


def test_a_restored_backup_that_holds_all_is_no_gap(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    back_up(store, tmp_path / "monday.db")
    sqlite_database.close()
    put_back(tmp_path / "monday.db", store)
    assert gap_of(store) is None


def test_a_backup_restored_where_there_is_no_mark_may_lack_something(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    back_up(store, tmp_path / "monday.db")
    sqlite_database.close()
    put_back(tmp_path / "monday.db", tmp_path / "new" / "store.db")
    gap = gap_of(tmp_path / "new" / "store.db")
    assert gap is not None
    assert gap.message.endswith("the record of run run-1 ends at event 904; how much is missing is not known")


def test_a_restored_backup_without_the_run_is_recognised(sqlite_database: Database, tmp_path: Path) -> None:
    assert sqlite_database.file is not None
    back_up(sqlite_database.file, tmp_path / "empty.db")
    record(sqlite_database, 20)
    sqlite_database.close()
    put_back(tmp_path / "empty.db", sqlite_database.file)
    gap = gap_of(sqlite_database.file)
    assert gap is not None
    assert gap.missing
    assert gap.restored


# -- digests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [97, 1_000, 2_500])
def test_the_digest_does_not_depend_on_the_commits(database: Database, batch: int) -> None:
    events = words(0, 2_345)
    Recorder(database, a_run("run-1", kind=RunKind.LIVE))
    for first in range(0, len(events), batch):
        lines = Journal(database, "run-1")  # as after a restart
        lines.append(events[first : first + batch])
    lines.seal()
    lines.seal()
    expected = JournalDigest()
    for event in events:
        expected.add(encode(event))
    assert lines.digest == expected.digest == digest_at(database, "run-1", 2_345)
    with database.read() as connection:
        stored = connection.execute(journal_digests.select().order_by(journal_digests.c.seq)).all()
    assert [row.seq for row in stored] == [1_000, 2_000, 2_345]
    assert stored[-1].digest == expected.digest
    assert len(list(read_journal(database, "run-1"))) == 2_345


@pytest.mark.parametrize(
    ("seq", "first", "last"), [(1, 1, 1_000), (1_000, 1, 1_000), (1_001, 1_001, 2_000), (2_345, 2_001, 2_345)]
)
def test_an_input_that_is_not_what_was_committed_is_named(
    database: Database, seq: int, first: int, last: int
) -> None:
    Recorder(database, a_run("run-1", kind=RunKind.LIVE))
    lines = Journal(database, "run-1")
    lines.append(words(0, 2_345))
    lines.seal()
    with database.write() as connection:
        connection.execute(
            update(journal).where(journal.c.seq == seq).values(payload=encode(words(7_777, 1)[0]))
        )
    with pytest.raises(
        StoreError,
        match=f"damaged between event {first} and event {last}: an input is not what was committed",
    ):
        list(read_journal(database, "run-1"))


def test_a_run_of_an_earlier_version_is_covered_from_its_next_block_on(database: Database) -> None:
    Recorder(database, a_run("run-1", kind=RunKind.LIVE))
    Journal(database, "run-1").append(words(0, 2_345))
    with database.write() as connection:
        connection.execute(delete(journal_digests))
    assert digest_at(database, "run-1", 2_345) is None
    for first in (0, 700):
        Journal(database, "run-1").append(words(first, 700))
    assert len(list(read_journal(database, "run-1"))) == 3_745
    assert digest_at(database, "run-1", 3_745) == Journal(database, "run-1").digest
    with database.write() as connection:
        connection.execute(
            update(journal).where(journal.c.seq == 2_900).values(payload=encode(words(7_777, 1)[0]))
        )
    with pytest.raises(StoreError, match="damaged between event 2001 and event 3000"):
        list(read_journal(database, "run-1"))


def test_bytes_that_changed_on_the_disk_are_found_wherever_they_change_an_input(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    record(sqlite_database, 2_000)
    Journal(sqlite_database, "run-1").seal()
    sqlite_database.close()
    before, dice = payloads(store), random.Random(64)
    changed = 0
    for number in range(24):
        copy = as_killed(store, tmp_path / f"copy-{number}")
        page = dice.randrange(1, copy.stat().st_size // 4096)
        flip_bytes(copy, page * 4096 + dice.randrange(4096 - 64), 64, dice)
        if payloads(copy) == before:
            continue
        changed += 1
        with pytest.raises(TapewireError), closing(open_database(f"sqlite:///{copy}")) as database:
            check_store(database, tmp_path, full=True)
    assert changed > 8


# -- the doctor's look -------------------------------------------------------------------------------------------------


def test_a_sound_store_is_called_so(store: Path, sqlite_database: Database, tmp_path: Path) -> None:
    quick = check_store(sqlite_database, tmp_path)
    assert quick == "its pages are sound, nothing is missing that the last live run had committed"
    assert check_store(sqlite_database, tmp_path, full=True).endswith(
        "904 events of its journals are as they were committed"
    )


def test_a_damaged_page_is_found_by_the_quick_check(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    sqlite_database.close()
    dice = random.Random(1)
    for page in range(2, store.stat().st_size // 4096):
        copy = as_killed(store, tmp_path / f"copy-{page}")
        flip_bytes(copy, page * 4096, 12, dice)  # the page's header
        with pytest.raises(TapewireError), closing(open_database(f"sqlite:///{copy}")) as database:
            check_store(database, tmp_path)


def test_a_check_that_takes_too_long_says_so(store: Path, sqlite_database: Database, tmp_path: Path) -> None:
    record(sqlite_database, 20_000, batch=5_000)
    assert "0 s of the quick check found nothing" in check_store(sqlite_database, tmp_path, limit=0)


def test_an_event_that_is_text_is_named_as_damaged_and_no_crash(
    store: Path, sqlite_database: Database
) -> None:
    with sqlite_database.write() as connection:
        connection.exec_driver_sql("UPDATE journal SET payload = 'text' WHERE seq = 902")
    with pytest.raises(StoreError, match="event 902 is damaged"):
        Journal(sqlite_database, "run-1")


def test_a_run_whose_archive_was_moved_away_stops_no_start(
    store: Path, sqlite_database: Database, tmp_path: Path
) -> None:
    """The archive has a hash of its own, for whoever reads it; the mark is for what the store holds."""
    with sqlite_database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET status = 'complete', finished_at = started_at, last_event_at = started_at"
        )
    (chosen,) = candidates(sqlite_database, T0 + 10 * DAY_MS)
    made = archive_journal(sqlite_database, chosen, tmp_path, WallClock())
    prune(sqlite_database, "run-1", WallClock())
    Path(made.path).unlink()
    assert gap_of(store) is None
