"""The journal returns a live run's inputs unchanged, in order and numbered without gaps."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from agent.core.errors import StoreError
from agent.core.events import Command, Event, Gap, Kline, News
from agent.store.database import Database
from agent.store.journal import Journal, decode, encode, read_journal
from agent.store.tables import journal, runs
from tests.store.store_samples import EVENTS, T0, a_run, same, structs

BARS: list[Event] = [
    Kline("BTCUSDT", 60_000, T0 + i, T0 + i, T0 + i, 1.0, 2.0, 0.5, 1.5, 10.0) for i in range(5)
]


@pytest.fixture
def recorded(database: Database) -> Database:
    with database.write() as connection:
        connection.execute(insert(runs), msgspec.structs.asdict(a_run()))
    return database


@pytest.mark.parametrize("kind", EVENTS)
@given(data=st.data())
def test_every_kind_of_event_survives_encoding(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    event = data.draw(structs(kind))
    assert same(decode(encode(event)), event)


def test_events_come_back_in_order_from_any_number(recorded: Database) -> None:
    events = [
        *BARS,
        News("n1", T0, T0, "Ünïcode \0 headline"),
        Command("pause", T0, T0, {"why": "lunch"}),
        Gap("BTCUSDT", 1, 1, 2, T0),
    ]
    Journal(recorded, "run-1").append(events)
    assert [event for _, event in read_journal(recorded, "run-1")][5:] == events[5:]
    assert [seq for seq, _ in read_journal(recorded, "run-1")] == list(range(1, 9))
    assert list(read_journal(recorded, "run-1", 7)) == [(7, events[6]), (8, events[7])]


def test_a_reopened_journal_continues_its_numbers(recorded: Database) -> None:
    assert Journal(recorded, "run-1").append(BARS[:2]) == 1
    again = Journal(recorded, "run-1")
    assert again.last_seq == 2
    assert again.append(BARS[2:]) == 3
    assert again.append([]) == 6
    assert [seq for seq, _ in read_journal(recorded, "run-1")] == [1, 2, 3, 4, 5]


def test_a_retry_of_an_unconfirmed_commit_appends_the_events_once(recorded: Database) -> None:
    """A second journal object stands for the first attempt, whose confirmation was lost."""
    unanswered = Journal(recorded, "run-1")
    Journal(recorded, "run-1").append(BARS[:3])
    assert unanswered.has_committed(3)
    assert unanswered.append(BARS[:3], again=True) == 1
    assert unanswered.append(BARS[3:]) == 4
    assert [(seq, encode(event)) for seq, event in read_journal(recorded, "run-1")] == [
        (seq, encode(event)) for seq, event in enumerate(BARS, 1)
    ]


def test_events_are_committed_when_append_returns(recorded: Database) -> None:
    Journal(recorded, "run-1").append(BARS[:1])
    with recorded.engine.connect() as elsewhere:
        assert elsewhere.exec_driver_sql("SELECT count(*) FROM journal").scalar() == 1


def test_a_second_writer_of_the_same_run_is_refused_and_writes_nothing(recorded: Database) -> None:
    one, two = Journal(recorded, "run-1"), Journal(recorded, "run-1")
    one.append(BARS[:1])
    with pytest.raises(StoreError):
        two.append(BARS[1:3])
    assert len(list(read_journal(recorded, "run-1"))) == 1


def test_the_error_names_a_missing_event(recorded: Database) -> None:
    Journal(recorded, "run-1").append(BARS)
    with recorded.write() as connection:
        connection.execute(delete(journal).where(journal.c.seq == 3))
    with pytest.raises(StoreError, match="journal of run run-1 lacks event 3"):
        list(read_journal(recorded, "run-1"))


def test_the_error_names_a_damaged_event(recorded: Database) -> None:
    Journal(recorded, "run-1").append(BARS)
    with recorded.write() as connection:
        connection.execute(update(journal).where(journal.c.seq == 2).values(payload=b"\xc1"))
    with pytest.raises(StoreError, match="damaged event 2"):
        list(read_journal(recorded, "run-1"))


MANY: list[Event] = [
    Kline("BTCUSDT", 60_000, T0 + i, T0 + i, T0 + i, 1.0, 2.0, 0.5, 1.5, float(i)) for i in range(2_345)
]


@pytest.mark.parametrize("from_seq", [1, 2, 999, 1_000, 1_001, 2_000, 2_345])
def test_a_long_journal_is_whole_from_any_number_however_it_was_committed(
    recorded: Database, from_seq: int
) -> None:
    written = Journal(recorded, "run-1")
    for start, end in ((0, 1), (1, 700), (700, 2_100), (2_100, 2_345)):
        assert written.append(MANY[start:end]) == start + 1
    written.seal()
    found = list(read_journal(recorded, "run-1", from_seq))
    assert [seq for seq, _ in found] == list(range(from_seq, 2_346))
    assert [encode(event) for _, event in found] == list(map(encode, MANY[from_seq - 1 :]))


def test_events_before_a_missing_one_are_read(recorded: Database) -> None:
    Journal(recorded, "run-1").append(MANY)
    with recorded.write() as connection:
        connection.execute(delete(journal).where(journal.c.seq == 1_500))
    found: list[int] = []
    with pytest.raises(StoreError, match="lacks event 1500"):
        found.extend(seq for seq, _ in read_journal(recorded, "run-1"))
    assert found[:1_000] == list(range(1, 1_001))
    assert found == list(range(1, len(found) + 1))
    assert len(found) < 1_500


def test_an_event_that_took_another_ones_bytes_is_damaged_though_the_digest_is_right(
    recorded: Database,
) -> None:
    """The digest covers the bytes in order, not where an event ends."""
    written = Journal(recorded, "run-1")
    written.append(BARS)
    written.seal()
    both = encode(BARS[1]) + encode(BARS[2])
    with recorded.write() as connection:
        for seq, payload in ((2, both), (3, b"")):
            connection.execute(update(journal).where(journal.c.seq == seq).values(payload=payload))
    with pytest.raises(StoreError, match="damaged event 2"):
        list(read_journal(recorded, "run-1"))


def test_a_payload_that_is_not_bytes_is_damaged(recorded: Database) -> None:
    if not recorded.is_sqlite:
        pytest.skip("a server keeps the type of a column")
    Journal(recorded, "run-1").append(BARS)
    with recorded.write() as connection:
        connection.exec_driver_sql("UPDATE journal SET payload = 'text' WHERE seq = 4")
    with pytest.raises(StoreError, match="damaged event 4: its payload is not bytes"):
        list(read_journal(recorded, "run-1"))


def test_a_batch_that_fails_leaves_nothing_and_the_next_one_works(recorded: Database) -> None:
    rows = [("run-1", seq, "Kline", T0, encode(bar)) for seq, bar in enumerate(BARS, 1)]
    for twice in (rows[:1], [(*rows[0][:2], None, *rows[0][3:])]):  # the same number again; a column is empty
        with pytest.raises(StoreError):
            put_all(recorded, rows, twice)
    assert list(read_journal(recorded, "run-1")) == []
    put_all(recorded, rows)
    assert [encode(event) for _, event in read_journal(recorded, "run-1")] == list(map(encode, BARS))


def put_all(store: Database, *parts: list[tuple[Any, ...]]) -> None:
    with store.batch() as put:
        for rows in parts:
            put(journal, rows)
