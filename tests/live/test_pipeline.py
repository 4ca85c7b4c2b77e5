"""The core journals, decides and records, in this order, so a restart can follow at any point."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.errors import DataError, StoreError
from agent.core.events import MINUTE_MS, Command, Event, Fill, Funding, News, Order, Sentiment
from agent.live.interfaces.status import STORE_WRITE
from agent.live.pipeline import Pipeline
from agent.replay.verify import verify
from agent.store.commit_mark import CommitMarkFile, read_mark
from agent.store.database import Database
from agent.store.journal import Journal, encode, read_journal
from agent.store.queries import find_run, read_decisions
from agent.store.runs import Run, RunKind, RunStatus
from tests.support.market import SYMBOL, T0, config, flat_bars

CONFIG = config(strategy={"name": "sma_cross", "params": {"fast": 1, "slow": 2}}, paper={"funding_rate": 0})
BARS = flat_bars([100.0 + 5 * (i % 3) for i in range(30)])


def a_run(run_id: str = "run-1") -> Run:
    return Run(
        run_id,
        RunKind.LIVE,
        T0,
        "sma_cross",
        params={"fast": 1, "slow": 2, "weight": 0.45, "allow_short": False},
        config=CONFIG.persisted(),
    )


def at_once(events: Sequence[Event]) -> list[tuple[Event, float]]:
    return [(event, 0.0) for event in events]


async def test_journalled_events_without_decisions_are_decided_after_a_restart(database: Database) -> None:
    with suppress(KeyboardInterrupt), Pipeline(CONFIG, database, a_run(), resume=False) as pipeline:
        await pipeline.feed(at_once(BARS[:10]))
        raise KeyboardInterrupt
    Journal(database, "run-1").append(BARS[10:20])  # the process is killed here
    before = [item.digest for item in read_decisions(database, "run-1")]
    with Pipeline(CONFIG, database, find_run(database), resume=True) as pipeline:
        after = [item.digest for item in read_decisions(database, "run-1")]
        assert len(before) < len(after)
        assert after[: len(before)] == before
        await pipeline.feed(at_once(BARS[20:]))
        pipeline.end(complete=True)
    assert decisions(database, "run-1") == await uninterrupted(database)


async def uninterrupted(database: Database) -> list[tuple[int, str, int]]:
    run = a_run(uuid4().hex)
    with Pipeline(CONFIG, database, run, resume=False) as pipeline:
        await pipeline.feed(at_once(BARS))
        pipeline.end(complete=True)
    return decisions(database, run.id)


def decisions(store: Database, run_id: str) -> list[tuple[int, str, int]]:
    """Return the decisions without client order ids, which depend on the run."""
    return [
        (item.event_seq, type(item.decision).__name__, item.decision.ts)
        for item in read_decisions(store, run_id)
    ]


@pytest.mark.slow
@given(cuts=st.lists(st.integers(1, 29), max_size=4, unique=True).map(sorted), lost=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
async def test_decisions_do_not_depend_on_restarts(database: Database, cuts: list[int], lost: bool) -> None:
    run, resume = a_run(uuid4().hex), False
    for begin, end in pairwise([0, *cuts, len(BARS)]):
        with suppress(KeyboardInterrupt), Pipeline(CONFIG, database, run, resume=resume) as pipeline:
            await pipeline.feed(at_once(BARS[begin : end - lost]))
            raise KeyboardInterrupt
        Journal(database, run.id).append(BARS[end - lost : end])
        run, resume = find_run(database, run.id), True
    with Pipeline(CONFIG, database, run, resume=True) as pipeline:
        pipeline.end(complete=True)
    assert verify(database, find_run(database, run.id)).identical
    assert decisions(database, run.id) == await uninterrupted(database)


async def test_available_at_never_decreases(database: Database) -> None:
    late = News("n1", T0, T0 + 1_000, "late")
    with Pipeline(CONFIG, database, a_run(), resume=False) as pipeline:
        handled = await pipeline.feed(at_once([BARS[3], late, BARS[4]]))
        pipeline.end(complete=False)
    assert [event.available_at for event in handled] == [
        BARS[3].available_at,
        BARS[3].available_at,
        BARS[4].available_at,
    ]
    assert [encode(event) for _, event in read_journal(database, "run-1")] == list(map(encode, handled))
    assert handled[1].ts == T0


async def test_funding_is_due_once_per_stamp_also_after_downtime(
    database: Database,
) -> None:
    paid = CONFIG.model_copy(
        update={"paper": CONFIG.paper.model_copy(update={"funding_rate": 0.001, "funding_interval": 300_000})}
    )
    with suppress(KeyboardInterrupt), Pipeline(paid, database, a_run(), resume=False) as pipeline:
        handled = await pipeline.feed(at_once(BARS[:7]))
        raise KeyboardInterrupt
    stamps = [i for i, event in enumerate(handled) if isinstance(event, Funding)]
    assert [handled[i].ts for i in stamps] == [T0 + 5 * MINUTE_MS]
    assert handled[stamps[0] - 1] == BARS[4]
    with Pipeline(paid, database, find_run(database), resume=True) as pipeline:
        again = await pipeline.feed(at_once([BARS[17]]))
        pipeline.end(complete=False)
    assert [event.ts for event in again if isinstance(event, Funding)] == [
        T0 + 10 * MINUTE_MS,
        T0 + 15 * MINUTE_MS,
    ]
    assert all(event.available_at == BARS[17].available_at for event in again)


async def test_the_resume_point_holds_bars_headlines_and_model(database: Database) -> None:
    events: list[Event] = [
        *BARS[:3],
        News("scored", T0, BARS[2].ts, "one"),
        News("waiting", T0, BARS[2].ts, "two"),
        Sentiment("scored", T0, BARS[2].ts, 0.2, 0.2, 0.6),
        Command("model-in-use", T0, BARS[2].ts, {"chosen": "/models/new"}),
    ]
    with suppress(KeyboardInterrupt), Pipeline(CONFIG, database, a_run(), resume=False) as pipeline:
        await pipeline.feed(at_once(events))
        raise KeyboardInterrupt
    with Pipeline(CONFIG, database, find_run(database), resume=True) as pipeline:
        memory = pipeline.memory
        pipeline.end(complete=False)
    assert memory.bars == {(SYMBOL, MINUTE_MS): BARS[2].start}
    assert list(memory.headlines) == ["scored", "waiting"]
    assert list(memory.unscored) == ["waiting"]
    assert memory.model == "/models/new"


async def test_a_run_ends_interrupted_or_complete(
    database: Database,
) -> None:
    for run_id, complete, status in (("a", False, RunStatus.INTERRUPTED), ("b", True, RunStatus.COMPLETE)):
        with Pipeline(CONFIG, database, a_run(run_id), resume=False) as pipeline:
            await pipeline.feed(at_once(BARS))
            pipeline.end(complete=complete)
        run = find_run(database, run_id)
        assert run.status is status
        assert (run.first_event_at, run.last_event_at) == (BARS[0].available_at, BARS[-1].available_at)
        assert run.events == len(BARS)
        kinds = [type(item.decision) for item in read_decisions(database, run_id)]
        assert Order in kinds
        assert Fill in kinds


async def test_a_run_that_would_decide_differently_is_not_resumed(database: Database) -> None:
    with suppress(KeyboardInterrupt), Pipeline(CONFIG, database, a_run(), resume=False) as pipeline:
        await pipeline.feed(at_once(BARS))
        raise KeyboardInterrupt
    other = CONFIG.model_copy(update={"paper": CONFIG.paper.model_copy(update={"half_spread_bps": 5.0})})
    with (
        pytest.raises(StoreError, match="can't be resumed"),
        Pipeline(other, database, find_run(database), resume=True),
    ):
        pass
    assert find_run(database).status is RunStatus.FAILED


async def test_an_error_of_the_core_fails_the_run_and_keeps_its_journal(database: Database) -> None:
    with suppress(DataError), Pipeline(CONFIG, database, a_run(), resume=False) as pipeline:
        await pipeline.feed(at_once(BARS[:5]))
        raise DataError("a bar of another world")
    assert find_run(database).status is RunStatus.FAILED
    assert [encode(event) for _, event in read_journal(database, "run-1")] == list(map(encode, BARS[:5]))


async def test_the_mark_names_every_committed_event_whether_it_decided_something_or_not(
    database: Database, tmp_path: Path
) -> None:
    mark = CommitMarkFile(tmp_path / "mark")
    quiet = replace(BARS[0], confirm=False)
    with Pipeline(CONFIG, database, a_run(), resume=False, mark=mark) as pipeline:
        state = replace(BARS[10], confirm=False)  # its price fills an order
        for number, events in enumerate(([quiet], BARS[:10], [state], [state]), 1):
            writes = len(pipeline.spans[STORE_WRITE])
            decided = pipeline.decisions
            await pipeline.feed(at_once(events))
            found = read_mark(tmp_path / "mark")
            assert found is not None
            assert (found.seq, found.digest) == (pipeline.journal.last_seq, pipeline.journal.digest.hex())
            assert found.decisions == pipeline.decisions
            recorded = [item.digest.hex() for item in read_decisions(database, "run-1")]
            assert (found.decisions, found.head) == (len(recorded), recorded[-1] if recorded else found.head)
            if number == 4:  # nothing to record: one commit
                assert (pipeline.decisions, len(pipeline.spans[STORE_WRITE])) == (decided, writes + 1)
        assert pipeline.decisions > 0
        pipeline.end(complete=True)
