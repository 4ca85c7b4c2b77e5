"""Snapshots of a live run's state in the store: what a restart loads instead of folding the journal from its first event.

A snapshot belongs to the event after which it was taken. It is written after the journal and the decisions up to there are committed,
never before; its digest covers all of it, and it is data, never code.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b
from typing import Final

import msgspec
from sqlalchemy import delete, func, insert, select

from agent.core.errors import StoreError
from agent.store.database import Database
from agent.store.tables import journal, snapshots

_COLUMNS: Final = tuple(column for column in snapshots.c if column.name not in ("run_id", "payload"))
_MOST: Final = 1 << 30  # bytes of a payload, unpacked


class SnapshotInfo(msgspec.Struct, frozen=True):
    """A snapshot without its payload."""

    seq: int  # number of the last event that it covers
    created_at: int  # UTC ms of the machine's clock
    fingerprint: str  # of the program and configuration that it belongs to
    state: str  # hex digest of the core's state, which a full fold must reach too
    boundary: bool  # it begins a segment of the journal, and is kept
    size: int  # bytes in the store
    digest: str  # hex, of all of it


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot to be written; `parts` are encoded states by name."""

    seq: int
    created_at: int
    fingerprint: str
    state: str
    parts: dict[str, bytes]
    boundary: bool = False


def write_snapshot(
    database: Database,
    run_id: str,
    snapshot: Snapshot,
    keep: int,
    *,
    again: bool = False,  # noqa: ARG001 - the second replaces the first
) -> SnapshotInfo:
    """Commit `snapshot`, and delete those before the last `keep`, except those that begin a segment. Raises StoreError.

    The same snapshot may be written twice (`again`), if the result of the first attempt was lost.
    """
    payload = zlib.compress(msgspec.msgpack.encode(snapshot.parts), 1)
    info = SnapshotInfo(
        snapshot.seq,
        snapshot.created_at,
        snapshot.fingerprint,
        snapshot.state,
        snapshot.boundary,
        len(payload),
        "",
    )
    info = msgspec.structs.replace(info, digest=_digest(run_id, info, payload))
    ours = snapshots.c.run_id == run_id
    with database.write() as connection:
        connection.execute(delete(snapshots).where(ours, snapshots.c.seq == snapshot.seq))
        connection.execute(
            insert(snapshots).values(run_id=run_id, payload=payload, **msgspec.structs.asdict(info))
        )
        passing = (
            select(snapshots.c.seq)
            .where(ours, snapshots.c.boundary.is_(False))
            .order_by(snapshots.c.seq.desc())
        )
        old = list(connection.scalars(passing.offset(keep)))
        if old:
            connection.execute(delete(snapshots).where(ours, snapshots.c.seq.in_(old)))
    return info


def list_snapshots(database: Database, run_id: str) -> list[SnapshotInfo]:
    """The run's snapshots, newest first."""
    query = select(*_COLUMNS).where(snapshots.c.run_id == run_id).order_by(snapshots.c.seq.desc())
    with database.read() as connection:
        return [SnapshotInfo(**row) for row in connection.execute(query).mappings()]


def read_parts(database: Database, run_id: str, info: SnapshotInfo) -> dict[str, bytes]:
    """The parts of a snapshot. Raises StoreError if it is missing or damaged."""
    query = select(snapshots.c.payload).where(snapshots.c.run_id == run_id, snapshots.c.seq == info.seq)
    with database.read() as connection:
        payload = connection.scalar(query)
    damaged = StoreError(f"{database.name}: the snapshot of run {run_id} after event {info.seq} is damaged")
    if payload is None or _digest(run_id, info, bytes(payload)) != info.digest:
        raise damaged
    try:
        unpacked = zlib.decompressobj().decompress(bytes(payload), _MOST)
        return msgspec.msgpack.decode(unpacked, type=dict[str, bytes])
    except (zlib.error, msgspec.MsgspecError):
        raise damaged from None


def segment_begins(database: Database, run_id: str) -> int | None:
    """When the first event after the last boundary was handled, UTC ms; None without such an event."""
    last = select(func.max(snapshots.c.seq)).where(
        snapshots.c.run_id == run_id, snapshots.c.boundary.is_(True)
    )
    with database.read() as connection:
        after = connection.scalar(last) or 0
        first = select(journal.c.available_at).where(journal.c.run_id == run_id, journal.c.seq > after)
        return connection.scalar(first.order_by(journal.c.seq).limit(1))


def drop_after(database: Database, run_id: str, seq: int) -> None:
    """Delete the snapshots of events after `seq`, which the journal has lost: other events will get their numbers."""
    with database.write() as connection:
        connection.execute(delete(snapshots).where(snapshots.c.run_id == run_id, snapshots.c.seq > seq))


def _digest(run_id: str, info: SnapshotInfo, payload: bytes) -> str:
    head = f"{run_id} {info.seq} {info.created_at} {info.fingerprint} {info.state} {info.boundary} ".encode()
    return blake2b(head + payload, digest_size=16).hexdigest()
