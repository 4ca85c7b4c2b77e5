"""A restart continues from the newest valid snapshot; an invalid one costs time but changes no decision."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from agent.config import Config
from agent.core.errors import StoreError
from agent.core.events import Event, Kline, News
from agent.core.strategy import Market, Strategy
from agent.dashboard.dashboard_state import NO_VERSION, DashboardState
from agent.dashboard.page_rows import run_header
from agent.live.pipeline import Pipeline
from agent.replay.verify import verify
from agent.store.database import Database, open_database
from agent.store.journal import Journal
from agent.store.queries import find_run
from agent.store.runs import Run, RunKind
from agent.store.state_snapshots import list_snapshots
from strategies import source_of
from tests.support.stories import Story

HALF = 400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'snapshots.db'}")) as database:
        yield database


def a_story(tmp_path: Path, seed: int = 4, **strategy: Any) -> Story:
    story = Story(seed, tmp_path, minutes=120)
    if strategy:
        section = story.config.strategy.model_copy(update=strategy)
        story.config = story.config.model_copy(update={"strategy": section})
    return story


def a_run(config: Config) -> Run:
    params = dict(config.strategy.params)
    versions = source_of(config.strategy.name)
    return Run(
        "run-1",
        RunKind.LIVE,
        0,
        config.strategy.name,
        params=params,
        config=config.persisted(),
        versions=versions,
    )


async def live(pipeline: Pipeline, story: Story, start: int, end: int) -> None:
    for at in range(start, end, 7):
        await pipeline.feed([(event, 0.0) for event in story.events[at : min(at + 7, end)]])


async def first_life(store: Database, story: Story, *, run_observers: tuple[Any, ...] = ()) -> None:
    with Pipeline(
        story.config, store, a_run(story.config), resume=False, run_observers=run_observers
    ) as pipeline:
        await live(pipeline, story, 0, HALF)
        pipeline.end(complete=False)


def heard(pipeline: Pipeline) -> list[int]:
    """Return a list that collects the numbers of the events that the core handles."""
    numbers: list[int] = []
    handle = pipeline._handle

    def noted(seq: int, event: Event) -> None:
        numbers.append(seq)
        handle(seq, event)

    pipeline._handle = noted  # type: ignore[method-assign]
    return numbers


@pytest.mark.parametrize("seed", [3, 4, 5, 11])
async def test_a_restart_folds_only_events_after_the_snapshot(
    store: Database, tmp_path: Path, seed: int
) -> None:
    story = a_story(tmp_path, seed)
    await first_life(store, story)
    (info,) = list_snapshots(store, "run-1")
    Journal(store, "run-1").append(story.events[HALF : HALF + 5])  # the process is killed here
    pipeline = Pipeline(story.config, store, find_run(store), resume=True)
    numbers = heard(pipeline)
    with pipeline:
        assert numbers == list(range(info.seq + 1, pipeline.journal.last_seq + 1))
        assert pipeline.snapshots.status.resumed_from == info.seq
        assert not pipeline.snapshots.status.problem
        memory = pipeline.memory
        await live(pipeline, story, HALF + 5, len(story.events))
        pipeline.end(complete=True)
    assert set(memory.headlines) == {event.id for event in story.events if isinstance(event, News)}
    proof = verify(store, find_run(store))
    assert proof.identical
    assert proof.snapshots == 1


async def test_journalled_events_that_were_not_handled_are_not_in_the_snapshot(
    store: Database, tmp_path: Path
) -> None:
    story = a_story(tmp_path)
    with Pipeline(story.config, store, a_run(story.config), resume=False) as pipeline:
        await live(pipeline, story, 0, HALF)
        handled = pipeline.journal.last_seq
        pipeline.journal.append(story.events[HALF : HALF + 5])  # the wait for the store is cancelled here
        pipeline.end(complete=False)
    assert list_snapshots(store, "run-1")[0].seq == handled
    pipeline = Pipeline(story.config, store, find_run(store), resume=True)
    numbers = heard(pipeline)
    with pipeline:
        assert numbers == list(range(handled + 1, handled + 6))
        pipeline.end(complete=True)
    assert verify(store, find_run(store)).identical


@pytest.mark.slow
async def test_the_record_is_the_same_without_snapshots(tmp_path: Path) -> None:
    tables: dict[str, list[Any]] = {}
    for name, every in (("with", 1), ("without", 0)):
        with closing(open_database(f"sqlite:///{tmp_path / name}.db")) as database:
            story = a_story(tmp_path)
            section = story.config.store.model_copy(update={"snapshot_every": every})
            story.config = story.config.model_copy(update={"store": section})
            await first_life(database, story)
            with Pipeline(story.config, database, find_run(database), resume=True) as pipeline:
                assert bool(pipeline.snapshots.status.resumed_from) is bool(every)
                await live(pipeline, story, HALF, len(story.events))
                pipeline.end(complete=True)
            with database.read() as connection:
                for table in ("news", "sentiments", "equity", "orders", "fills", "risk_events", "signals"):
                    rows = [
                        tuple(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY seq"))
                    ]
                    assert tables.setdefault(table, rows) == rows
    assert tables["equity"]
    assert tables["orders"]


async def test_snapshots_are_taken_periodically_and_three_are_kept(store: Database, tmp_path: Path) -> None:
    story = a_story(tmp_path)
    section = story.config.store.model_copy(update={"snapshot_every": 1})
    story.config = story.config.model_copy(update={"store": section})
    await first_life(store, story)
    infos = list_snapshots(store, "run-1")
    assert len(infos) == 3
    assert infos[0].seq == Journal(store, "run-1").last_seq


DECISIONS = ("orders", "order_updates", "fills", "risk_events", "signals", "cancels", "amends", "funding")
DAMAGES = {
    "a flipped byte": (
        "UPDATE snapshots SET payload = substr(payload, 1, 99) || x'00' || substr(payload, 101)"
    ),
    "another time": "UPDATE snapshots SET created_at = 1",
    "another state": "UPDATE snapshots SET state = '00'",
    "an older program": "UPDATE snapshots SET fingerprint = 'older'",
    "a lost tail of the journal": "DELETE FROM journal WHERE seq > 390",
    "cut": "UPDATE snapshots SET payload = substr(payload, 1, 50)",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_an_invalid_snapshot_falls_back_to_a_full_fold(
    store: Database, tmp_path: Path, damage: str
) -> None:
    story = a_story(tmp_path)
    await first_life(store, story)
    with store.write() as connection:
        connection.execute(text(DAMAGES[damage]))
        if "tail" in damage:
            connection.execute(text("DELETE FROM journal_digests WHERE seq > 390"))
            for table in DECISIONS:
                connection.execute(text(f"DELETE FROM {table} WHERE event_seq > 390"))
    pipeline = Pipeline(story.config, store, find_run(store), resume=True)
    numbers = heard(pipeline)
    with pipeline:
        assert numbers == list(range(1, pipeline.journal.last_seq + 1))
        assert (
            f"the snapshot after event {len(numbers) if 'tail' not in damage else ''}"
            in pipeline.snapshots.status.problem
        )
        await live(pipeline, story, pipeline.journal.last_seq, len(story.events))
        pipeline.end(complete=True)
    proof = verify(store, find_run(store))
    assert proof.divergence is None
    assert bool(proof.differing) is (damage == "another state")


async def test_an_older_snapshot_is_used_if_the_newest_is_damaged(store: Database, tmp_path: Path) -> None:
    story = a_story(tmp_path)
    await first_life(store, story)
    with Pipeline(story.config, store, find_run(store), resume=True) as pipeline:
        await live(pipeline, story, HALF, HALF + 200)
        pipeline.end(complete=False)
    newest, older = list_snapshots(store, "run-1")
    with store.write() as connection:
        connection.execute(text(f"UPDATE snapshots SET payload = x'00' WHERE seq = {newest.seq}"))
    with Pipeline(story.config, store, find_run(store), resume=True) as pipeline:
        assert pipeline.snapshots.status.resumed_from == older.seq
        pipeline.end(complete=True)
    assert verify(store, find_run(store)).identical


async def test_verify_detects_a_snapshot_that_differs_from_the_journal(
    store: Database, tmp_path: Path
) -> None:
    story = a_story(tmp_path)
    await first_life(store, story)
    (info,) = list_snapshots(store, "run-1")
    with store.write() as connection:
        connection.execute(text("UPDATE snapshots SET state = 'another'"))
    proof = verify(store, find_run(store))
    assert (proof.identical, proof.differing) == (False, (info.seq,))


async def test_a_record_that_ends_before_the_snapshot_is_completed_by_a_full_fold(
    store: Database, tmp_path: Path
) -> None:
    story = a_story(tmp_path)
    await first_life(store, story)
    with store.write() as connection:
        for table in DECISIONS:
            connection.execute(text(f"DELETE FROM {table} WHERE event_seq > 300"))
    with Pipeline(story.config, store, find_run(store), resume=True) as pipeline:
        assert "has no decision" in pipeline.snapshots.status.problem
        pipeline.end(complete=True)
    assert verify(store, find_run(store)).identical


OWN = """
from agent.core.strategy import Strategy


class Own(Strategy):
    def on_kline(self, kline, market):
        self.target(kline.symbol, weight=0.2)
"""


async def test_a_strategy_edited_during_a_run_saves_no_snapshot_for_its_new_code(
    store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running code is the one loaded at the start; its state does not belong to the edited file."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "edited_while_running.py"
    file.write_text(OWN)
    story = a_story(tmp_path, name="edited_while_running:Own", params={})
    with Pipeline(story.config, store, a_run(story.config), resume=False) as pipeline:
        await live(pipeline, story, 0, HALF)
        file.write_text(OWN.replace("weight=0.2", "weight=0.3"))
        pipeline.end(complete=False)
    monkeypatch.delitem(sys.modules, "edited_while_running")
    assert len(list_snapshots(store, "run-1")) == 1
    # A fold from the first event shows the new decisions; a fold from the snapshot would hide them
    with pytest.raises(StoreError, match="the program or a strategy has changed since"):
        Pipeline(story.config, store, find_run(store), resume=True).__enter__()
    monkeypatch.delitem(sys.modules, "edited_while_running")


class Secretive(Strategy):
    """Its state is not plain data."""

    def on_start(self, market: Market) -> None:
        self.stream = iter(range(3))

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.2 if kline.start // kline.interval % 3 else 0.0)


async def test_without_a_serialisable_state_the_whole_journal_is_folded_and_status_reports_it(
    store: Database, tmp_path: Path
) -> None:
    story = a_story(tmp_path, name="tests.live.test_snapshots:Secretive", params={})
    with Pipeline(story.config, store, a_run(story.config), resume=False) as pipeline:
        await live(pipeline, story, 0, HALF)
        pipeline.end(complete=False)
        assert pipeline.snapshots.status.problem == (
            "a restart folds the whole journal: "
            "strategy attribute stream is an object of builtins.range_iterator"
        )
    assert not list_snapshots(store, "run-1")
    with Pipeline(story.config, store, find_run(store), resume=True) as pipeline:
        await live(pipeline, story, HALF, len(story.events))
        pipeline.end(complete=True)
    assert verify(store, find_run(store)).identical


def a_dashboard_state(config: Config) -> DashboardState:
    return DashboardState(run_header(a_run(config), config), config)


async def test_the_dashboard_state_continues_from_its_part_of_the_snapshot(
    store: Database, tmp_path: Path
) -> None:
    story = a_story(tmp_path)
    before = a_dashboard_state(story.config)
    await first_life(store, story, run_observers=(before,))
    again, whole = a_dashboard_state(story.config), a_dashboard_state(story.config)
    with Pipeline(story.config, store, find_run(store), resume=True, run_observers=(again,)) as pipeline:
        assert pipeline.snapshots.status.resumed_from
        assert again.changes(NO_VERSION) == before.changes(NO_VERSION)
        await live(pipeline, story, HALF, len(story.events))
        pipeline.end(complete=True)
    with store.write() as connection:
        connection.execute(text("DELETE FROM snapshots"))
    with Pipeline(story.config, store, find_run(store), resume=True, run_observers=(whole,)) as pipeline:
        assert again.changes(NO_VERSION) == whole.changes(NO_VERSION)
        assert again.account().equity == pipeline.engine.portfolio.equity()


async def test_a_new_dashboard_state_reads_the_whole_journal(store: Database, tmp_path: Path) -> None:
    story = a_story(tmp_path)
    await first_life(store, story)
    state = a_dashboard_state(story.config)
    with Pipeline(story.config, store, find_run(store), resume=True, run_observers=(state,)) as pipeline:
        assert not pipeline.snapshots.status.resumed_from
        assert "lacks the state of an observer" in pipeline.snapshots.status.problem
        assert state.account().equity == pipeline.engine.portfolio.equity()
        assert state.seq == pipeline.journal.last_seq
