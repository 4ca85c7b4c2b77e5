"""The journal of a live run: every input, committed before the engine handles it, in the order in which it was handled.

A restart folds it into a fresh engine and is where it was; `verify` does the same and compares the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, func, select

from agent.errors import StoreError
from agent.events import Event
from agent.store.bulk import insert_rows
from agent.store.database import Database
from agent.store.runs import Archive, Segment
from agent.store.tables import archives, journal, segments

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
            archived = connection.scalar(select(func.max(segments.c.last)).where(segments.c.run_id == self._run_id))
        return max(last or 0, archived or 0)

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
    """(number, event) of a run from number `from_seq` on, streamed, from its archives as far as it was pruned.

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
    while True:
        with database.read() as connection:
            pruned = [] if stored else [one for one in _segments(connection, run_id) if one.pruned_at and one.last >= from_seq]
            if not pruned:
                query = select(*(journal.c[name] for name in JournalRow._fields)).where(
                    journal.c.run_id == run_id, journal.c.seq >= from_seq
                )
                for row in connection.execute(query.order_by(journal.c.seq).execution_options(yield_per=1000)):
                    yield JournalRow(*row)
                return
        from agent.store.archive import read_file

        for segment in pruned:
            yield from read_file(Path(segment.path), segment.sha256, run_id, from_seq)
        from_seq = pruned[-1].last + 1


def find_segments(database: Database, run_id: str) -> list[Segment]:
    """The parts of the run's journal that are in files, from the first event on."""
    with database.read() as connection:
        return _segments(connection, run_id)


def _segments(connection: Connection, run_id: str) -> list[Segment]:
    columns = [segments.c[name] for name in Segment.__struct_fields__]
    rows = connection.execute(select(*columns).where(segments.c.run_id == run_id).order_by(segments.c.last))
    return [Segment(*row) for row in rows]


def find_archive(database: Database, run_id: str) -> Archive | None:
    """Where the run's journal was copied to; None: nowhere."""
    query = select(*(archives.c[name] for name in Archive.__struct_fields__)).where(archives.c.run_id == run_id)
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Archive(*row)
