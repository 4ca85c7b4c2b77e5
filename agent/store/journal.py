"""The journal of a live run: every input, committed before the engine handles it, in the order in which it was handled.

A restart folds it into a fresh engine and is where it was; `verify` does the same and compares the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, func, select

from agent.core.errors import StoreError
from agent.core.events import Event, kind_of
from agent.store.bulk import insert_rows
from agent.store.chain import BLOCK, DIGEST_SIZE, JournalDigest
from agent.store.database import Database
from agent.store.runs import Archive, Segment
from agent.store.tables import archives, journal, journal_digests, segments

encode: Final[Callable[[Event], bytes]] = msgspec.msgpack.Encoder().encode
"""An input as msgpack that names its kind."""

decode: Final[Callable[[bytes], Event]] = msgspec.msgpack.Decoder(Event).decode
"""The reverse of `encode`; raises msgspec.DecodeError."""


UNKNOWN: Final = b"\xff" * DIGEST_SIZE
"""Stands for the digest of the blocks that an earlier version wrote: what follows is chained to it."""

_HINT: Final = "restore a backup: tapewire db restore"


class JournalRow(NamedTuple):
    """An event as it is kept."""

    seq: int
    kind: str
    available_at: int  # UTC ms
    payload: bytes


class Journal:
    """Appends to one run's journal; events are numbered from 1 without gaps. A run has one writer.

    With each `BLOCK` of events the journal's digest is stored (`agent.store.chain.JournalDigest`).
    """

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self.last_seq = last_event(database, run_id)
        """Number of the last event that is safe."""
        self._digest, self._anchored = _digest_at(database, run_id, self.last_seq)

    @property
    def digest(self) -> bytes:
        """The digest of the events up to `last_seq`."""
        return self._digest.digest

    @property
    def last_at(self) -> int:
        """`available_at` of the last event that is safe, UTC ms; 0 without one. Raises StoreError."""
        with self._database.read() as connection:
            last = connection.scalar(
                select(func.max(journal.c.available_at)).where(journal.c.run_id == self._run_id)
            )
        return last or 0

    def holds(self, count: int) -> bool:
        """Whether `count` events were appended whose commit was not answered. Raises StoreError."""
        return last_event(self._database, self._run_id) == self.last_seq + count

    def append(self, events: Sequence[Event], *, again: bool = False) -> int:
        """Commit `events`, all or none; returns the number of the first. Only then may they be handled. Raises StoreError.

        With `again` they were tried before, and the answer may have been lost: what is there is not written twice.
        """
        first = self.last_seq + 1
        rows = [
            (self._run_id, seq, kind_of(event), event.available_at, encode(event))
            for seq, event in enumerate(events, first)
        ]
        if not rows:
            return first
        ahead = self._digest.copy()
        digests = [] if self._anchored else [(self._run_id, ahead.seq // BLOCK * BLOCK, UNKNOWN)]
        for row in rows:
            ahead.add(row[4])
            if ahead.seq % BLOCK == 0:
                digests.append((self._run_id, ahead.seq, ahead.digest))
        if again and last_event(self._database, self._run_id) == self.last_seq + len(rows):
            self._database.confirm(self._run_id)
        else:
            with self._database.write() as connection:
                insert_rows(connection, journal, rows)
                if digests:
                    insert_rows(connection, journal_digests, digests)
        self._digest, self._anchored = ahead, True
        self.last_seq += len(rows)
        return first

    def seal(self) -> None:
        """Store the digest of the last event: the run ends here, for now."""
        if self.last_seq % BLOCK == 0 or not self._anchored:
            return
        with self._database.write() as connection:
            here = (journal_digests.c.run_id == self._run_id) & (journal_digests.c.seq == self.last_seq)
            if connection.scalar(select(func.count()).where(here)) == 0:
                insert_rows(connection, journal_digests, [(self._run_id, self.last_seq, self.digest)])


def last_event(database: Database, run_id: str) -> int:
    """Number of the last event in a run's journal, or in the archive or segments that it was moved to; 0 if there is none."""
    archive = find_archive(database, run_id)
    if archive is not None and archive.pruned_at is not None:
        return archive.events
    with database.read() as connection:
        last = connection.scalar(select(func.max(journal.c.seq)).where(journal.c.run_id == run_id))
        moved = connection.scalar(select(func.max(segments.c.last)).where(segments.c.run_id == run_id))
    return max(last or 0, moved or 0)


def digest_at(database: Database, run_id: str, seq: int) -> bytes | None:
    """The digest of a journal up to event `seq`; None if it can't be known, since an earlier version began the run."""
    found, anchored = _digest_at(database, run_id, seq)
    return found.digest if anchored and found.seq == seq else None


def _digest_at(database: Database, run_id: str, seq: int) -> tuple[JournalDigest, bool]:
    """The digest up to `seq`, from the block that begins before it, and whether the digest of that block is stored."""
    base = seq // BLOCK * BLOCK
    stored: bytes | None = bytes(DIGEST_SIZE)
    if base:
        query = select(journal_digests.c.digest).where(
            journal_digests.c.run_id == run_id, journal_digests.c.seq == base
        )
        with database.read() as connection:
            stored = connection.scalar(query)
    found = JournalDigest(base, UNKNOWN if stored is None else stored)
    if seq > base:
        for row in read_rows(database, run_id, base + 1):
            if row.seq > seq:
                break
            if not isinstance(row.payload, bytes):
                raise StoreError(
                    f"{database.name}: the journal of run {run_id}: event {row.seq} is damaged", hint=_HINT
                )
            found.add(row.payload)
    return found, stored is not None


def read_journal(database: Database, run_id: str, from_seq: int = 1) -> Iterator[tuple[int, Event]]:
    """(number, event) of a run from number `from_seq` on, streamed, from its archives as far as it was pruned.

    Raises StoreError where one is missing or damaged, or isn't what was committed.
    """
    where = f"{database.name}: the journal of run {run_id}"
    digests = _stored_digests(database, run_id, from_seq)
    following = next(digests, None)
    known, checked = _anchor(database, run_id, from_seq)
    for expected, (seq, _, _, payload) in enumerate(read_rows(database, run_id, from_seq), from_seq):
        if seq != expected:
            raise StoreError(f"{where} lacks event {expected}", hint=_HINT)
        if not isinstance(payload, bytes):
            raise StoreError(
                f"{where} has a damaged event {seq}: its payload is {type(payload).__name__}", hint=_HINT
            )
        if known is not None:
            known.add(payload)
        if following is not None and seq == following[0]:
            stored = following[1]
            if known is not None and stored != UNKNOWN and known.digest != stored:
                raise StoreError(
                    f"{where} is damaged between event {checked + 1} and event {seq}: an input is not what was committed",
                    hint=_HINT,
                )
            if seq % BLOCK == 0 and (known is None or stored == UNKNOWN):
                known = JournalDigest(seq, stored)
            checked, following = seq, next(digests, None)
        try:
            event = decode(payload)
        except (msgspec.DecodeError, ValueError) as error:  # text that isn't UTF-8 is a ValueError of its own
            raise StoreError(f"{where} has a damaged event {seq}: {error}", hint=_HINT) from None
        yield seq, event


def _anchor(database: Database, run_id: str, from_seq: int) -> tuple[JournalDigest | None, int]:
    """The digest of all before `from_seq` (None if it can't be known), and the last event before it that was checked with it."""
    if from_seq == 1:
        return JournalDigest(), 0
    try:
        known, anchored = _digest_at(database, run_id, from_seq - 1)
    except StoreError:  # a segment's file lies elsewhere, and what begins here doesn't need it
        return None, from_seq - 1
    if not anchored or known.seq != from_seq - 1:
        return None, from_seq - 1
    return known, known.seq // BLOCK * BLOCK


def _stored_digests(database: Database, run_id: str, from_seq: int) -> Iterator[tuple[int, bytes]]:
    """(number, digest) of a run from event `from_seq` on."""
    query = (
        select(journal_digests.c.seq, journal_digests.c.digest)
        .where(journal_digests.c.run_id == run_id, journal_digests.c.seq >= from_seq)
        .order_by(journal_digests.c.seq)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    yield from ((int(seq), bytes(digest)) for seq, digest in rows)


def read_rows(
    database: Database, run_id: str, from_seq: int = 1, *, stored: bool = False
) -> Iterator[JournalRow]:
    """The rows as they are, streamed; with `stored` those of the database, whatever is in an archive. Raises StoreError."""
    if (
        not stored
        and (archive := find_archive(database, run_id)) is not None
        and archive.pruned_at is not None
    ):
        from agent.store.archive import read_archive  # pyarrow is for those who need it

        yield from read_archive(archive, run_id, from_seq)
        return
    while True:
        with database.read() as connection:
            pruned = (
                []
                if stored
                else [one for one in _segments(connection, run_id) if one.pruned_at and one.last >= from_seq]
            )
            if not pruned:
                query = select(*(journal.c[name] for name in JournalRow._fields)).where(
                    journal.c.run_id == run_id, journal.c.seq >= from_seq
                )
                for row in connection.execute(
                    query.order_by(journal.c.seq).execution_options(yield_per=1000)
                ):
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
    query = select(*(archives.c[name] for name in Archive.__struct_fields__)).where(
        archives.c.run_id == run_id
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Archive(*row)
