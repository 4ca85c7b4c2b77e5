"""The journal of a live run: every input, committed before the engine handles it, in the order in which it was handled.

A restart folds it into a fresh engine and is where it was; `verify` does the same and compares the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from sqlalchemy import func, select

from agent.errors import StoreError
from agent.events import Event
from agent.store.bulk import insert_rows
from agent.store.database import Database
from agent.store.tables import journal

encode: Final[Callable[[Event], bytes]] = msgspec.msgpack.Encoder().encode
"""An input as msgpack that names its kind."""

decode: Final[Callable[[bytes], Event]] = msgspec.msgpack.Decoder(Event).decode
"""The reverse of `encode`; raises msgspec.DecodeError."""


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
    """(number, event) of a run from number `from_seq` on, streamed. Raises StoreError where one is missing or damaged."""
    query = (
        select(journal.c.seq, journal.c.payload)
        .where(journal.c.run_id == run_id, journal.c.seq >= from_seq)
        .order_by(journal.c.seq)
        .execution_options(yield_per=1000)
    )
    where = f"{database.name}: the journal of run {run_id}"
    with database.read() as connection:
        for expected, (seq, payload) in enumerate(connection.execute(query), from_seq):
            if seq != expected:
                raise StoreError(f"{where} lacks event {expected}", hint="restore a backup")
            try:
                event = decode(payload)
            except msgspec.DecodeError as error:
                raise StoreError(f"{where} has a damaged event {seq}: {error}", hint="restore a backup") from None
            yield seq, event
