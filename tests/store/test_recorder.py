"""Decisions are recorded exactly, in batches, and only a finished run is marked as complete."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from math import nan
from uuid import uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from agent.core.errors import DataError, StoreError
from agent.core.events import AssetSentiment, News, RiskEvent, RiskState, Sentiment
from agent.core.sinks import DecisionSink
from agent.store import tables
from agent.store.chain import DecisionChain
from agent.store.database import Database, open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions, read_frame, read_rows
from agent.store.recorder import Recorder
from agent.store.runs import InputFile, Run, RunKind, RunStatus
from tests.store.store_samples import DECISIONS, ONE_OF_EACH, T0, a_run, same, structs


class FixedClock:
    def now(self) -> int:
        return T0 + 5_000


@contextmanager
def locked_for_writing(database: Database) -> Iterator[None]:
    """Hold the write lock of an SQLite file from another connection."""
    with closing(open_database(f"sqlite:///{database.file}")) as other, other.write():
        yield


def finish(recorder: Recorder, **values: object) -> Run:
    end = {
        "first_event_at": T0,
        "last_event_at": T0 + 400,
        "final_equity": Decimal("10001.230"),
        "metrics": {},
    } | values
    return recorder.finish(**end)  # type: ignore[arg-type]


@pytest.mark.slow
@given(decisions=st.lists(st.one_of(*map(structs, DECISIONS)), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_every_decision_comes_back_exactly(database: Database, decisions: list[msgspec.Struct]) -> None:
    run = a_run(uuid4().hex)
    with Recorder(database, run) as recorder:
        for event_seq, decision in enumerate(decisions, 10):
            recorder.event_seq = event_seq
            recorder.decision(decision)
        finish(recorder)
    recorded = list(read_decisions(database, run.id))
    assert [(item.seq, item.event_seq) for item in recorded] == [
        (n, n + 9) for n in range(1, len(decisions) + 1)
    ]
    assert all(same(item.decision, decision) for item, decision in zip(recorded, decisions, strict=True))


def test_rows_have_the_digests_of_the_chain_and_the_run_has_its_head(database: Database) -> None:
    chain = DecisionChain()
    with Recorder(database, a_run()) as recorder:
        for event_seq, decision in enumerate(ONE_OF_EACH):
            recorder.event_seq = event_seq
            recorder.decision(decision)
        run = finish(recorder)
    digests = [chain.add(decision, event_seq) for event_seq, decision in enumerate(ONE_OF_EACH)]
    assert [item.digest for item in read_decisions(database, "run-1")] == digests
    assert (run.chain_head, run.decisions, run.events) == (chain.head, len(ONE_OF_EACH), len(ONE_OF_EACH) - 1)


def test_the_row_of_a_run_comes_back_as_it_was(database: Database) -> None:
    begun = Run(
        "run-1",
        RunKind.LIVE,
        T0,
        "sentiment",
        params={"weight": 0.1},
        config={"market": {"symbols": ["BTCUSDT"]}, "z": 1, "a": None},
        version="0.1.0",
        versions={"python": "3.11"},
        inputs=(InputFile("klines", "btc.parquet", "ab" * 32, "BTCUSDT", 1440),),
        stamps=("LEAKED",),
    )
    with Recorder(database, begun, clock=FixedClock()) as recorder:
        assert find_run(database, "run-1") == begun
        ended = finish(recorder, metrics={"sharpe": 1.5, "trades": 3})
    assert find_run(database, "run-1") == ended
    assert (ended.status, ended.finished_at, str(ended.final_equity)) == (
        RunStatus.COMPLETE,
        T0 + 5_000,
        "10001.230",
    )


def test_a_metric_that_is_not_finite_is_stored_as_null(database: Database) -> None:
    with Recorder(database, a_run()) as recorder:
        finish(recorder, metrics={"sharpe": nan, "profit_factor": float("inf")})
    assert find_run(database).metrics == {"sharpe": None, "profit_factor": None}


def test_headlines_sentiments_and_equity_are_recorded_with_their_event(database: Database) -> None:
    headline = News(
        "n1", T0, T0 + 60_000, "Tiny coin gains a lot", currencies=("BTC",), publisher="The Ledger"
    )
    sentiment = Sentiment("n1", T0, T0 + 60_250, 0.1, 0.2, 0.7, "m1", symbols=("BTCUSDT",))
    with Recorder(database, a_run()) as recorder:
        recorder.event_seq = 3
        recorder.news(headline, ("BTCUSDT", "ETHUSDT"), "story-1")
        recorder.event_seq = 4
        recorder.sentiment(sentiment)
        recorder.equity([T0, T0], [10_000.0, 10_001.0], [9_000.0, 9_000.0], [1_000.0, nan])
        finish(recorder)
    assert list(read_rows(database, "run-1", News)) == [headline]
    assert list(read_rows(database, "run-1", Sentiment)) == [sentiment]
    news = read_frame(database, "run-1", "news")
    assert (news.event_seq[0], news.symbols[0], news.story[0]) == (3, ("BTCUSDT", "ETHUSDT"), "story-1")
    assert read_frame(database, "run-1", "equity").equity.tolist() == [10_000.0, 10_001.0]


@given(sentiment=structs(Sentiment))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_answers_for_single_assets_come_back_exactly(database: Database, sentiment: Sentiment) -> None:
    with Recorder(database, a_run(uuid4().hex)) as recorder:
        recorder.sentiment(msgspec.structs.replace(sentiment, symbols=()))
        finish(recorder)
    (recorded,) = read_rows(database, recorder.run.id, Sentiment)
    assert same(recorded.assets, sentiment.assets)
    assert same((recorded.kind, recorded.kind_confidence), (sentiment.kind, sentiment.kind_confidence))


def test_sql_can_read_the_answers_for_single_assets(sqlite_database: Database) -> None:
    """Each answer is [asset, bearish, neutral, bullish], then its embedding in base64 if it has one."""
    assets = (AssetSentiment("BTC", 0.1, 0.2, 0.7, b"\x00<"), AssetSentiment("ETH", 0.8, 0.2, 0.0))
    with Recorder(sqlite_database, a_run()) as recorder:
        recorder.sentiment(Sentiment("n1", T0, T0, 0.4, 0.2, 0.4, assets=assets, kind="price"))
        recorder.sentiment(Sentiment("n2", T0, T0, 0.4, 0.2, 0.4))
        finish(recorder)
    with sqlite_database.read() as connection:
        rows = connection.execute(text("SELECT assets, kind FROM sentiments ORDER BY seq")).all()
    assert json.loads(rows[0].assets) == [["BTC", 0.1, 0.2, 0.7, "ADw="], ["ETH", 0.8, 0.2, 0.0]]
    assert [tuple(row)[1] for row in rows] == ["price", ""]
    assert rows[1].assets is None


def test_nul_and_lone_surrogates_in_a_headline_are_replaced(database: Database) -> None:
    with Recorder(database, a_run()) as recorder:
        recorder.news(News("n\0", T0, T0, "nul \0 and half a pair \ud83d here, a whole one 🚀 there"), (), "")
        finish(recorder)
    (news,) = read_rows(database, "run-1", News)
    assert news.title == "nul \ufffd and half a pair \ufffd here, a whole one 🚀 there"


def test_rows_are_committed_batch_by_batch_and_on_flush(database: Database) -> None:
    def committed() -> int:
        with database.read() as connection:
            return connection.scalar(select(func.count()).select_from(tables.DECISIONS[RiskEvent])) or 0

    seen = []
    with Recorder(database, a_run(), batch=3) as recorder:
        for ts in range(5):
            recorder.decision(RiskEvent(ts, RiskState.ACTIVE, "rule"))
            seen.append(committed())
        recorder.flush()
        seen.append(committed())
        recorder.flush()
        finish(recorder)
    assert seen == [0, 0, 3, 3, 3, 5]
    assert committed() == 5


ENDINGS: list[tuple[BaseException | None, RunStatus, str]] = [
    (DataError("bar 7 has high < low", hint="fix it"), RunStatus.FAILED, "bar 7 has high < low (fix it)"),
    (ZeroDivisionError("division by zero"), RunStatus.FAILED, "ZeroDivisionError: division by zero"),
    (KeyboardInterrupt(), RunStatus.INTERRUPTED, "KeyboardInterrupt: "),
    (None, RunStatus.INTERRUPTED, ""),
]


@pytest.mark.parametrize(("error", "status", "text"), ENDINGS)
def test_a_run_that_ends_without_finish_records_the_cause_and_its_decisions(
    database: Database, error: BaseException | None, status: RunStatus, text: str
) -> None:
    with suppress(DataError, ZeroDivisionError, KeyboardInterrupt), Recorder(database, a_run()) as recorder:
        recorder.decision(ONE_OF_EACH[0])
        if error is not None:
            raise error
    run = find_run(database)
    assert (run.status, run.error, run.decisions) == (status, text, 1)
    assert len(list(read_decisions(database, "run-1"))) == 1


def test_a_run_whose_process_died_is_not_complete(database: Database) -> None:
    recorder = Recorder(database, a_run(), batch=2)
    for decision in ONE_OF_EACH[:3]:
        recorder.decision(decision)
    del recorder
    assert find_run(database).status is RunStatus.RUNNING
    assert [item.seq for item in read_decisions(database, "run-1")] == [1, 2]


def test_the_same_run_cannot_be_recorded_twice(database: Database) -> None:
    Recorder(database, a_run())
    with pytest.raises(StoreError):
        Recorder(database, a_run())


def test_a_full_disk_fails_the_run_and_leaves_complete_batches_only(sqlite_database: Database) -> None:
    def record_for_ever() -> None:
        with Recorder(sqlite_database, a_run(), batch=100) as recorder:
            with sqlite_database.read() as connection:  # the pool reuses this connection for the writer
                used = connection.exec_driver_sql("PRAGMA page_count").scalar()
                connection.exec_driver_sql(f"PRAGMA max_page_count={used + 20}")
            while True:
                recorder.decision(RiskEvent(T0, RiskState.ACTIVE, "rule", detail="x" * 50))

    with pytest.raises(StoreError, match="the disk is full"):
        record_for_ever()
    run = find_run(sqlite_database)
    assert run.status is RunStatus.FAILED
    assert "the disk is full" in run.error
    recorded = [item.seq for item in read_decisions(sqlite_database, "run-1")]
    assert recorded == list(range(1, len(recorded) + 1))
    assert len(recorded) % 100 == 0
    assert recorded


def test_a_run_that_cannot_be_marked_failed_stays_running_and_reports_the_first_error(
    sqlite_database: Database,
) -> None:
    recorder = Recorder(sqlite_database, a_run())

    def fail() -> None:
        with recorder:
            recorder.decision(ONE_OF_EACH[0])
            raise DataError("the first error")

    with locked_for_writing(sqlite_database), pytest.raises(DataError, match="the first error"):
        fail()
    assert find_run(sqlite_database).status is RunStatus.RUNNING


def replay_into(recorder: Recorder, decisions: list[msgspec.Struct]) -> None:
    """Record as an engine would that receives a headline and makes one decision on each event."""
    for event_seq, decision in enumerate(decisions, 1):
        recorder.event_seq = event_seq
        recorder.news(News(f"n{event_seq}", T0, T0, "a headline"), (), "")
        recorder.equity([T0 + event_seq], [1.0], [1.0], [0.0])
        recorder.decision(decision)


@pytest.mark.parametrize("recorded", [0, 3, len(ONE_OF_EACH)])
def test_a_resumed_run_is_replayed_without_duplicates_and_continued(
    database: Database, recorded: int
) -> None:
    with suppress(KeyboardInterrupt), Recorder(database, a_run()) as recorder:
        replay_into(recorder, ONE_OF_EACH[:recorded])
        raise KeyboardInterrupt
    run = find_run(database)
    assert run.status is RunStatus.INTERRUPTED
    with Recorder(database, run, resume=True) as again:
        assert find_run(database).status is RunStatus.RUNNING
        replay_into(again, ONE_OF_EACH)
        finish(again)
    chain = DecisionChain()
    digests = [chain.add(decision, event_seq) for event_seq, decision in enumerate(ONE_OF_EACH, 1)]
    assert [item.digest for item in read_decisions(database, "run-1")] == digests
    assert [news.id for news in read_rows(database, "run-1", News)] == [
        f"n{n}" for n in range(1, len(ONE_OF_EACH) + 1)
    ]
    assert len(read_frame(database, "run-1", "equity")) == len(ONE_OF_EACH)
    assert find_run(database).chain_head == chain.head
    assert find_run(database).error == ""


def test_a_run_whose_replay_decides_differently_is_not_resumed(database: Database) -> None:
    with Recorder(database, a_run()) as recorder:
        recorder.decision(RiskEvent(T0, RiskState.ACTIVE, "rule"))
    with (
        Recorder(database, find_run(database), resume=True) as again,
        pytest.raises(StoreError, match="can't be resumed"),
    ):
        again.decision(RiskEvent(T0, RiskState.HALTED, "rule"))


def test_a_locked_store_is_reported_as_locked(sqlite_database: Database) -> None:
    with (
        locked_for_writing(sqlite_database),
        pytest.raises(StoreError, match="another process is writing to it"),
    ):
        Recorder(sqlite_database, a_run())


def test_the_recorder_is_a_sink(database: Database) -> None:
    accepts: Callable[[DecisionSink], object] = id
    assert accepts(Recorder(database, a_run()))


KILLED = """
import os, signal, sys
from agent.core.events import Gap, RiskEvent, RiskState
from agent.store.database import open_database
from agent.store.journal import Journal
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind

database = open_database(sys.argv[1])
recorder = Recorder(database, Run("run-1", RunKind.LIVE, 0, "sentiment"), batch=4)
journal = Journal(database, "run-1")
for number in range(10):
    journal.append([Gap("BTCUSDT", 1, number, number + 1, number)])
    recorder.decision(RiskEvent(number, RiskState.ACTIVE, "rule"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_committed(database_url: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, database_url], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with closing(open_database(database_url, create=False)) as database:
        assert find_run(database).status is RunStatus.RUNNING
        assert [item.seq for item in read_decisions(database, "run-1")] == list(range(1, 9))
        assert [seq for seq, _ in read_journal(database, "run-1")] == list(range(1, 11))
