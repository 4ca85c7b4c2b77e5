"""The journal of a live run: every input, committed before the engine handles it, in the order in which it was handled.

A restart folds it into a fresh engine and is where it was; `verify` does the same and compares the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import func, select

from agent.errors import StoreError
from agent.events import Event
from agent.store.bulk import insert_rows
from agent.store.database import Database
from agent.store.runs import Archive
from agent.store.tables import archives, journal

encode: Final[Callable[[Event], bytes]] = msgspec.msgpack.Encoder().encode
"""An input as msgpack that names its kind."""

decode: Final[Callable[[bytes], Event]] = msgspec.msgpack.Decoder(Event).decode
"""The reverse of `encode`; raises msgspec.DecodeError."""


class JournalRow(NamedTuple):
    """An event as it is kept."""

    seq: int
    kind: str
    available_at: int  # UTC ms
    payload: bytes


class Journal:
    """Appends to one run's journal; events are numbered from 1 without gaps. A run has one writer."""

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self.last_seq = self._stored()
        """Number of the last event that is safe."""

    def _stored(self) -> int:
        with self._database.read() as connection:
            last = connection.scalar(select(func.max(journal.c.seq)).where(journal.c.run_id == self._run_id))
        return last or 0

    @property
    def last_at(self) -> int:
        """`available_at` of the last event that is safe, UTC ms; 0 without one. Raises StoreError."""
        with self._database.read() as connection:
            last = connection.scalar(select(func.max(journal.c.available_at)).where(journal.c.run_id == self._run_id))
        return last or 0

    def holds(self, count: int) -> bool:
        """Whether `count` events were appended whose commit was not answered. Raises StoreError."""
        return self._stored() == self.last_seq + count

    def append(self, events: Sequence[Event], *, again: bool = False) -> int:
        """Commit `events`, all or none; returns the number of the first. Only then may they be handled. Raises StoreError.

        With `again` they were tried before, and the answer may have been lost: what is there is not written twice.
        """
        first = self.last_seq + 1
        if again and self._stored() == self.last_seq + len(events):
            self.last_seq += len(events)
            return first
        rows = [
            (self._run_id, seq, type(event).__name__, event.available_at, encode(event))
            for seq, event in enumerate(events, first)
        ]
        if rows:
            with self._database.write() as connection:
                insert_rows(connection, journal, rows)
            self.last_seq += len(rows)
        return first


def read_journal(database: Database, run_id: str, from_seq: int = 1) -> Iterator[tuple[int, Event]]:
    """(number, event) of a run from number `from_seq` on, streamed, from its archive where it was pruned.

    Raises StoreError where one is missing or damaged.
    """
    where = f"{database.name}: the journal of run {run_id}"
    for expected, (seq, _, _, payload) in enumerate(read_rows(database, run_id, from_seq), from_seq):
        if seq != expected:
            raise StoreError(f"{where} lacks event {expected}", hint="restore a backup")
        try:
            event = decode(payload)
        except msgspec.DecodeError as error:
            raise StoreError(f"{where} has a damaged event {seq}: {error}", hint="restore a backup") from None
        yield seq, event


def read_rows(database: Database, run_id: str, from_seq: int = 1, *, stored: bool = False) -> Iterator[JournalRow]:
    """The rows as they are, streamed; with `stored` those of the database, whatever is in an archive. Raises StoreError."""
    if not stored and (archive := find_archive(database, run_id)) is not None and archive.pruned_at is not None:
        from agent.store.archive import read_archive  # pyarrow is for those who need it

        yield from read_archive(archive, run_id, from_seq)
        return
    query = (
        select(*(journal.c[name] for name in JournalRow._fields))
        .where(journal.c.run_id == run_id, journal.c.seq >= from_seq)
        .order_by(journal.c.seq)
        .execution_options(yield_per=1000)
    )
    with database.read() as connection:
        for row in connection.execute(query):
            yield JournalRow(*row)


def find_archive(database: Database, run_id: str) -> Archive | None:
    """Where the run's journal was copied to; None: nowhere."""
    query = select(*(archives.c[name] for name in Archive.__struct_fields__)).where(archives.c.run_id == run_id)
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Archive(*row)
