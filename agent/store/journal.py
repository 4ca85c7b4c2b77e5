"""Journal of a live run: every input is committed, in order, before the engine handles it.

A restart replays the journal through a fresh engine to restore its state; `verify` does the same and compares
the decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Connection, func, select

from agent.core.errors import StoreError
from agent.core.events import Event, kind_of
from agent.store.chain import BLOCK, DIGEST_SIZE, JournalDigest
from agent.store.database import Database
from agent.store.runs import JournalArchive, JournalRow, JournalSegment
from agent.store.tables import archives, insert_rows, journal, journal_digests, segments

encode: Final[Callable[[Event], bytes]] = msgspec.msgpack.Encoder().encode
"""Encode an event as msgpack, tagged with its kind."""

decode: Final[Callable[[bytes], Event]] = msgspec.msgpack.Decoder(Event).decode
"""Decode an event that `encode` encoded. Raises msgspec.DecodeError."""


UNKNOWN_DIGEST: Final = b"\xff" * DIGEST_SIZE
"""Placeholder for the digest of blocks that an earlier version wrote; later digests are chained to it."""

_HINT: Final = "restore a backup: tapewire db restore"


class Journal:
    """Appends events to one run's journal and numbers them from 1 without gaps. A run has a single writer.

    After each `BLOCK` of events the journal's digest is stored (`agent.store.chain.JournalDigest`).
    """

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self.last_seq = last_event_seq(database, run_id)
        """Number of the last committed event."""
        self._digest, self._anchored = _load_digest(database, run_id, self.last_seq)

    @property
    def digest(self) -> bytes:
        """Digest of the events up to `last_seq`."""
        return self._digest.digest

    @property
    def last_at(self) -> int:
        """`available_at` of the last committed event, UTC ms; 0 without events. Raises StoreError."""
        with self._database.read() as connection:
            query = select(func.max(journal.c.available_at)).where(journal.c.run_id == self._run_id)
            return connection.scalar(query) or 0

    def has_committed(self, count: int) -> bool:
        """Return whether `count` events were appended whose commit was not confirmed. Raises StoreError."""
        return last_event_seq(self._database, self._run_id) == self.last_seq + count

    def append(self, events: Sequence[Event], *, again: bool = False) -> int:
        """Commit `events`, all or none, before the engine handles them; return the number of the first.

        With `again` this is a retry: the earlier attempt may have succeeded without a confirmation, and
        events that are already in the store are not written twice. Raises StoreError.
        """
        first = self.last_seq + 1
        if not events:
            return first
        run_id = self._run_id
        payloads = [encode(event) for event in events]
        ahead = self._digest.copy()
        digests = [] if self._anchored else [(run_id, ahead.seq // BLOCK * BLOCK, UNKNOWN_DIGEST)]
        digests += [(run_id, seq, digest) for seq, digest in ahead.extend(payloads)]
        if again and last_event_seq(self._database, run_id) == ahead.seq:
            self._database.commit_again(run_id)
        else:
            rows = [
                (run_id, seq, kind_of(event), event.available_at, payload)
                for seq, (event, payload) in enumerate(zip(events, payloads, strict=True), first)
            ]
            with self._database.batch() as insert:
                insert(journal, rows)
                if digests:
                    insert(journal_digests, digests)
        self._digest, self._anchored = ahead, True
        self.last_seq = ahead.seq
        return first

    def seal(self) -> None:
        """Store the digest of the last event at the end of a run, to which events may be appended later."""
        if self.last_seq % BLOCK == 0 or not self._anchored:
            return
        with self._database.write() as connection:
            here = (journal_digests.c.run_id == self._run_id) & (journal_digests.c.seq == self.last_seq)
            if connection.scalar(select(func.count()).where(here)) == 0:
                insert_rows(connection, journal_digests, [(self._run_id, self.last_seq, self.digest)])


def last_event_seq(database: Database, run_id: str) -> int:
    """Return the number of the last event in a run's journal, archive or segments; 0 without events."""
    archive = find_archive(database, run_id)
    if archive is not None and archive.pruned_at is not None:
        return archive.events
    with database.read() as connection:
        last = connection.scalar(select(func.max(journal.c.seq)).where(journal.c.run_id == run_id))
        moved = connection.scalar(select(func.max(segments.c.last)).where(segments.c.run_id == run_id))
    return max(last or 0, moved or 0)


def digest_at(database: Database, run_id: str, seq: int) -> bytes | None:
    """Return the digest of a journal up to event `seq`; None if an earlier version wrote the block before."""
    found, anchored = _load_digest(database, run_id, seq)
    return found.digest if anchored and found.seq == seq else None


def _load_digest(database: Database, run_id: str, seq: int) -> tuple[JournalDigest, bool]:
    """Return the digest up to `seq`, and whether the block before it has a stored digest."""
    where = f"{database.name}: the journal of run {run_id}"
    base = seq // BLOCK * BLOCK
    stored: bytes | None = bytes(DIGEST_SIZE)
    if base:
        of_run = journal_digests.c.run_id == run_id
        with database.read() as connection:
            stored = connection.scalar(
                select(journal_digests.c.digest).where(of_run, journal_digests.c.seq == base)
            )
    found = JournalDigest(base, UNKNOWN_DIGEST if stored is None else stored)
    if seq > base:
        for row in read_journal_rows(database, run_id, base + 1):
            if row.seq > seq:
                break
            if not isinstance(row.payload, bytes):
                raise StoreError(f"{where}: event {row.seq} is damaged", hint=_HINT)
            found.add(row.payload)
    return found, stored is not None


def read_journal(database: Database, run_id: str, from_seq: int = 1) -> Iterator[tuple[int, Event]]:
    """Stream (number, event) of a run from number `from_seq` on, including events that were moved to files.

    Raises StoreError if an event is missing, damaged, or not the one that was committed.
    """
    where = f"{database.name}: the journal of run {run_id}"
    digests = _stored_digests(database, run_id, from_seq)
    following = next(digests, None)
    known, checked = _anchor(database, run_id, from_seq)
    for first, payloads in _read_payloads(database, run_id, from_seq):
        begin = first
        while begin < first + len(payloads):
            end = first + len(payloads) if following is None else min(first + len(payloads), following[0] + 1)
            part = payloads[begin - first : end - first]
            if known is not None:
                _extend(known, part, begin, where)
            if following is not None and end == following[0] + 1:
                seq, stored = following
                if known is not None and stored != UNKNOWN_DIGEST and known.digest != stored:
                    place = f"between event {checked + 1} and event {seq}"
                    raise StoreError(
                        f"{where} is damaged {place}: an input is not what was committed", hint=_HINT
                    )
                if seq % BLOCK == 0 and (known is None or stored == UNKNOWN_DIGEST):
                    known = JournalDigest(seq, stored)
                checked, following = seq, next(digests, None)
            yield from enumerate(_decode_all(part, begin, where), begin)
            begin = end


def _extend(known: JournalDigest, payloads: Sequence[bytes], first: int, where: str) -> None:
    try:
        known.extend(payloads)
    except TypeError:
        _decode_all(payloads, first, where)  # raises an error that names the event
        raise


def _decode_all(payloads: Sequence[bytes], first: int, where: str) -> list[Event]:
    """Decode the payloads of the events from number `first` on. Raises StoreError for the first damaged
    one.
    """
    try:
        return list(map(decode, payloads))
    except (msgspec.DecodeError, ValueError, TypeError):
        values: Sequence[object] = payloads  # a damaged store may have others
        for seq, payload in enumerate(values, first):
            if not isinstance(payload, bytes):
                what = f"{where} has a damaged event {seq}: its payload is not bytes"
                raise StoreError(what, hint=_HINT) from None
            try:
                decode(payload)
            except (msgspec.DecodeError, ValueError) as error:  # invalid UTF-8 is a ValueError of its own
                raise StoreError(f"{where} has a damaged event {seq}: {error}", hint=_HINT) from None
        raise


def _read_payloads(database: Database, run_id: str, from_seq: int) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Stream the payloads from number `from_seq` on: for each part the number of its first event, and the
    payloads without gaps. Raises StoreError.
    """
    archive = find_archive(database, run_id)
    if archive is None or archive.pruned_at is None:
        with database.read() as connection:
            of_run = (journal.c.run_id == run_id) & (journal.c.seq >= from_seq)
            query = select(journal.c.seq, journal.c.payload).where(of_run).order_by(journal.c.seq)
            for rows in database.stream_rows(connection, query, BLOCK):
                # Numbers are unique and in order, so none is missing between these two
                if rows[0][0] != from_seq or rows[-1][0] != from_seq + len(rows) - 1:
                    break
                yield from_seq, [payload for _, payload in rows]
                from_seq += len(rows)
            else:
                return
    # Rows were moved to files, or are missing
    others = read_journal_rows(database, run_id, from_seq)
    while part := list(islice(others, BLOCK)):
        for expected, row in enumerate(part, from_seq):
            if row.seq != expected:
                yield from_seq, [row.payload for row in part[: expected - from_seq]]
                where = f"{database.name}: the journal of run {run_id}"
                raise StoreError(f"{where} lacks event {expected}", hint=_HINT)
        yield from_seq, [row.payload for row in part]
        from_seq += len(part)


def _anchor(database: Database, run_id: str, from_seq: int) -> tuple[JournalDigest | None, int]:
    """Return the digest before `from_seq`, or None, and the last earlier event that a digest covers."""
    if from_seq == 1:
        return JournalDigest(), 0
    try:
        known, anchored = _load_digest(database, run_id, from_seq - 1)
    except StoreError:  # the file of an earlier segment is missing, but is not needed from here on
        return None, from_seq - 1
    if not anchored or known.seq != from_seq - 1:
        return None, from_seq - 1
    return known, known.seq // BLOCK * BLOCK


def _stored_digests(database: Database, run_id: str, from_seq: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number, digest) of a run from event `from_seq` on."""
    query = (
        select(journal_digests.c.seq, journal_digests.c.digest)
        .where(journal_digests.c.run_id == run_id, journal_digests.c.seq >= from_seq)
        .order_by(journal_digests.c.seq)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    yield from ((int(seq), bytes(digest)) for seq, digest in rows)


def read_journal_rows(
    database: Database, run_id: str, from_seq: int = 1, *, only_stored: bool = False
) -> Iterator[JournalRow]:
    """Stream the rows undecoded; `only_stored` leaves out those that were moved to files. Raises
    StoreError.
    """
    archive = None if only_stored else find_archive(database, run_id)
    if archive is not None and archive.pruned_at is not None:
        from agent.store.archive_files import read_archive_file  # imports pyarrow, which is slow to load

        yield from read_archive_file(Path(archive.path), archive.sha256, run_id, from_seq)
        return
    while True:
        with database.read() as connection:
            moved = [] if only_stored else _read_segments(connection, run_id)
            pruned = [one for one in moved if one.pruned_at and one.last >= from_seq]
            if not pruned:
                query = select(*(journal.c[name] for name in JournalRow._fields)).order_by(journal.c.seq)
                query = query.where(journal.c.run_id == run_id, journal.c.seq >= from_seq)
                for row in connection.execute(query.execution_options(yield_per=1000)):
                    yield JournalRow(*row)
                return
        from agent.store.archive_files import read_archive_file

        for segment in pruned:
            yield from read_archive_file(Path(segment.path), segment.sha256, run_id, from_seq)
        from_seq = pruned[-1].last + 1


def find_segments(database: Database, run_id: str) -> list[JournalSegment]:
    """List the segments of the run's journal in files, in order."""
    with database.read() as connection:
        return _read_segments(connection, run_id)


def _read_segments(connection: Connection, run_id: str) -> list[JournalSegment]:
    columns = [segments.c[name] for name in JournalSegment.__struct_fields__]
    rows = connection.execute(select(*columns).where(segments.c.run_id == run_id).order_by(segments.c.last))
    return [JournalSegment(*row) for row in rows]


def find_archive(database: Database, run_id: str) -> JournalArchive | None:
    """Return the archive of the run's journal; None if it has none."""
    columns = [archives.c[name] for name in JournalArchive.__struct_fields__]
    with database.read() as connection:
        row = connection.execute(select(*columns).where(archives.c.run_id == run_id)).one_or_none()
    return None if row is None else JournalArchive(*row)
