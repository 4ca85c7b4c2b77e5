"""Finished segments of a long run move to verified files; the run is still read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from agent.core.errors import StoreError
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.pipeline import Pipeline
from agent.live.system_check import run_checks
from agent.replay.segment_archiver import check_segment, roll_over_all
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.journal import Journal, encode, find_segments, read_journal
from agent.store.journal_archive import archivable_runs
from agent.store.journal_segments import boundaries, roll_over
from agent.store.queries import find_run, read_decisions
from agent.store.runs import Run
from agent.store.state_snapshots import SnapshotInfo, list_snapshots
from agent.system.clock import WallClock
from tests.live.test_snapshots import a_run, live
from tests.support.live import assert_sound, handled, living, load_words, options, settings, until
from tests.support.stories import Story

SEGMENT = 30 * 60_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'segments.db'}")) as database:
        yield database


@pytest.fixture
def story(tmp_path: Path) -> Story:
    story = Story(4, tmp_path, minutes=120)
    section = story.config.store.model_copy(update={"segment": SEGMENT})
    story.config = story.config.model_copy(update={"store": section})
    return story


async def lived(store: Database, story: Story, end: int | None = None, *, complete: bool = False) -> None:
    with Pipeline(story.config, store, a_run(story.config), resume=False) as pipeline:
        await live(pipeline, story, 0, end or len(story.events))
        pipeline.end(complete=complete)


def rows(store: Database) -> int:
    with store.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM journal")).scalar_one())


async def test_a_rolled_over_run_is_read_verified_and_resumed_as_a_whole(
    store: Database, story: Story, tmp_path: Path
) -> None:
    await lived(store, story, len(story.events) - 50)
    before = [(seq, encode(event)) for seq, event in read_journal(store, "run-1")]
    ends = [info.seq for info in boundaries(store, "run-1")]
    assert len(ends) >= 3
    moved = roll_over_all(store, tmp_path / "archive")["run-1"]
    assert [(one.first, one.last) for one in moved] == list(
        zip([1, *(end + 1 for end in ends)], ends, strict=False)
    )
    assert rows(store) == len(before) - ends[-1]
    assert [(seq, encode(event)) for seq, event in read_journal(store, "run-1")] == before
    assert [(seq, encode(event)) for seq, event in read_journal(store, "run-1", ends[0])] == before[
        ends[0] - 1 :
    ]
    assert verify(store, find_run(store)).identical
    assert roll_over_all(store, tmp_path / "archive") == {}
    with Pipeline(story.config, store, find_run(store), resume=True) as pipeline:
        assert pipeline.journal.last_seq == len(before)
        assert pipeline.snapshots.status.resumed_from
        await live(pipeline, story, len(story.events) - 50, len(story.events))
        pipeline.end(complete=True)
    proof = verify(store, find_run(store))
    assert proof.identical
    assert proof.snapshots >= len(ends)
    assert not archivable_runs(store, 1 << 60)


async def test_without_a_usable_snapshot_a_restart_folds_the_archives(
    store: Database, story: Story, tmp_path: Path
) -> None:
    await lived(store, story)
    roll_over_all(store, tmp_path / "archive")
    with store.write() as connection:
        connection.execute(text("UPDATE snapshots SET fingerprint = 'older'"))
    with Pipeline(story.config, store, find_run(store), resume=True) as pipeline:
        assert not pipeline.snapshots.status.resumed_from
        pipeline.end(complete=True)
    assert verify(store, find_run(store)).identical


async def test_a_fully_archived_run_continues_with_the_next_number(
    store: Database, story: Story, tmp_path: Path
) -> None:
    await lived(store, story)
    end = boundaries(store, "run-1")[-1].seq
    with store.write() as connection:
        connection.execute(text(f"DELETE FROM journal WHERE seq > {end}"))
    roll_over_all(store, tmp_path / "archive")
    assert rows(store) == 0
    assert Journal(store, "run-1").last_seq == end


CHANGES: dict[str, str] = {
    "a decision": "UPDATE orders SET reason = 'another' WHERE seq = (SELECT min(seq) FROM orders)",
    "an input": "UPDATE journal SET payload = (SELECT payload FROM journal WHERE seq = 9) WHERE seq = 12",
    "a lost input": "DELETE FROM journal WHERE seq = 20",
    "a boundary's state": "UPDATE snapshots SET state = '00' WHERE boundary",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_segment_that_fails_verification_stays_in_the_store(
    store: Database, story: Story, tmp_path: Path, change: str
) -> None:
    await lived(store, story)
    with store.write() as connection:
        connection.execute(text(CHANGES[change]))
    before = rows(store)
    with pytest.raises(StoreError):
        roll_over_all(store, tmp_path / "archive")
    assert rows(store) == before


async def test_an_archive_that_changed_between_two_calls_is_rejected(
    store: Database, story: Story, tmp_path: Path
) -> None:
    await lived(store, story)
    with store.write() as connection:
        connection.execute(text("UPDATE orders SET reason = 'x' WHERE seq = (SELECT min(seq) FROM orders)"))
    with pytest.raises(StoreError, match="decided otherwise"):
        roll_over_all(store, tmp_path / "archive")
    (file,) = (tmp_path / "archive").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match="has changed"):
        roll_over_all(store, tmp_path / "archive")
    assert rows(store)


async def test_the_file_is_compared_with_the_store_row_by_row(
    store: Database, story: Story, tmp_path: Path
) -> None:
    def refuse(run: Run, end: SnapshotInfo) -> None:
        raise StoreError("not yet")

    await lived(store, story)
    run, before = find_run(store), rows(store)
    with pytest.raises(StoreError, match="not yet"):
        roll_over(store, run, tmp_path / "archive", WallClock(), refuse)
    with store.write() as connection:
        connection.execute(text(CHANGES["an input"]))
    with pytest.raises(StoreError, match="event 12 of run run-1 differs between"):
        roll_over(store, run, tmp_path / "archive", WallClock(), lambda run, end: None)
    assert rows(store) == before


@pytest.mark.parametrize("at", range(1, 9))
async def test_an_interrupted_rollover_is_completed_by_the_next(
    store: Database, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    await lived(store, story)
    before = [(seq, encode(event)) for seq, event in read_journal(store, "run-1")]
    count = 0
    write = Database.write

    def dying(self: Database) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return write(self)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", dying)
        try:
            roll_over_all(store, tmp_path / "archive")
        except KeyboardInterrupt:
            assert [(seq, encode(event)) for seq, event in read_journal(store, "run-1")] == before
    roll_over_all(store, tmp_path / "archive")
    assert rows(store) == len(before) - boundaries(store, "run-1")[-1].seq
    assert [(seq, encode(event)) for seq, event in read_journal(store, "run-1")] == before
    assert verify(store, find_run(store)).identical


async def test_a_segment_is_checked_from_the_preceding_boundary(
    store: Database, story: Story, tmp_path: Path
) -> None:
    await lived(store, story)
    last = boundaries(store, "run-1")[-1]
    with store.write() as connection:  # decisions before the boundary are not recomputed
        changed = connection.execute(text("UPDATE orders SET reason = 'x' WHERE event_seq < 50"))
    assert changed.rowcount
    check_segment(store, find_run(store), last)
    assert len(list(read_decisions(store, "run-1")))
    assert len(list_snapshots(store, "run-1")) > len(boundaries(store, "run-1"))


async def test_inputs_next_to_a_boundary_are_checked_with_the_segment(store: Database, story: Story) -> None:
    """Both belong to the block of events in which the segment begins; its digest covers the block."""
    await lived(store, story)
    last = boundaries(store, "run-1")[-1]
    start = boundaries(store, "run-1")[-2].seq
    for seq in (start, start + 1):
        with store.write() as connection:
            (kept,) = connection.execute(text(f"SELECT payload FROM journal WHERE seq = {seq}")).scalars()
            other = "(SELECT payload FROM journal WHERE seq = 3)"
            connection.execute(text(f"UPDATE journal SET payload = {other} WHERE seq = {seq}"))
        # an input that matters changes a decision first; one that doesn't changes the digest of the block
        with pytest.raises(StoreError, match=r"an input is not what was committed|is decided otherwise"):
            check_segment(store, find_run(store), last)
        with store.write() as connection:
            connection.execute(
                text("UPDATE journal SET payload = :kept WHERE seq = :seq"), {"kept": kept, "seq": seq}
            )
    check_segment(store, find_run(store), last)


@pytest.mark.slow
async def test_a_running_agent_archives_its_segments_and_continues(tmp_path: Path) -> None:
    async with Sandbox(options()) as sandbox:
        config = settings(
            sandbox.rest_url,
            tmp_path,
            store={"url": f"sqlite:///{tmp_path / 'store.db'}", "segment": "20m"},
            archive={"folder": str(tmp_path / "archive")},
        )
        with closing(open_database(config.store.url)) as database:
            for _ in range(2):
                daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
                async with living(daemon):
                    run = daemon.pipeline.run.id
                    moved = len(find_segments(database, run))
                    await until(partial(has_moved, database, run, moved))
                    await until(partial(has_handled, daemon, handled(daemon) + 10))
                    assert not daemon.status().snapshots.problem
            assert_sound(database, run, config)
            assert rows(database) < len(list(read_journal(database, run)))


def pruned(database: Database, run: str) -> list[Any]:
    return [one for one in find_segments(database, run) if one.pruned_at]


def has_moved(database: Database, run: str, before: int) -> bool:
    return len(pruned(database, run)) > before


def has_handled(daemon: Daemon, count: int) -> bool:
    return handled(daemon) >= count


async def test_doctor_names_a_missing_archive(store: Database, story: Story, tmp_path: Path) -> None:
    await lived(store, story)
    moved = roll_over_all(store, tmp_path / "archive")["run-1"]
    section = story.config.store.model_copy(update={"url": f"sqlite:///{store.file}"})
    config = story.config.model_copy(update={"store": section})
    found = {check.name: check for check in await run_checks(config)}
    assert found["store"].ok
    assert "the last snapshot covers" in found["store"].found
    Path(moved[0].path).unlink()
    found = {check.name: check for check in await run_checks(config)}
    assert not found["store"].ok
    assert moved[0].path in found["store"].found
