"""Snapshots of a live run's state.

A restart loads the newest one instead of replaying the journal from its first event.

A snapshot belongs to the event after which it was taken. It is written only after the journal and the
decisions up to that event are committed. Its digest covers all its fields, and it contains data only, never
code.
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
_MAX_PAYLOAD: Final = 1 << 30  # bytes, decompressed


class SnapshotInfo(msgspec.Struct, frozen=True):
    """A snapshot without its payload."""

    seq: int  # number of the last event that it covers
    created_at: int  # UTC ms, system clock
    fingerprint: str  # of the program and configuration that it was made with
    state: str  # hex digest of the core's state; a full replay must reach the same
    boundary: bool  # a journal segment ends here, so the snapshot is kept
    size: int  # bytes in the store
    digest: str  # hex, covers all other fields and the payload


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot to write; `parts` maps names to encoded states."""

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
    """Commit `snapshot` and delete all but the newest `keep`; segment boundaries are always kept.

    A retry (`again`) writes the same snapshot. Raises StoreError.
    """
    payload = zlib.compress(msgspec.msgpack.encode(snapshot.parts), 1)
    fields = msgspec.structs.asdict(snapshot)
    del fields["parts"]
    info = SnapshotInfo(**fields, size=len(payload), digest="")
    info = msgspec.structs.replace(info, digest=_digest(run_id, info, payload))
    of_run = snapshots.c.run_id == run_id
    with database.write() as connection:
        connection.execute(delete(snapshots).where(of_run, snapshots.c.seq == snapshot.seq))
        row = {"run_id": run_id, "payload": payload} | msgspec.structs.asdict(info)
        connection.execute(insert(snapshots), row)
        temporary = select(snapshots.c.seq).where(of_run, snapshots.c.boundary.is_(False))
        old = list(connection.scalars(temporary.order_by(snapshots.c.seq.desc()).offset(keep)))
        if old:
            connection.execute(delete(snapshots).where(of_run, snapshots.c.seq.in_(old)))
    return info


def list_snapshots(database: Database, run_id: str) -> list[SnapshotInfo]:
    """List the run's snapshots, newest first."""
    query = select(*_COLUMNS).where(snapshots.c.run_id == run_id).order_by(snapshots.c.seq.desc())
    with database.read() as connection:
        return [SnapshotInfo(**row) for row in connection.execute(query).mappings()]


def read_snapshot(database: Database, run_id: str, info: SnapshotInfo) -> dict[str, bytes]:
    """Read the parts of a snapshot. Raises StoreError if it is missing or damaged."""
    query = select(snapshots.c.payload).where(snapshots.c.run_id == run_id, snapshots.c.seq == info.seq)
    with database.read() as connection:
        payload = connection.scalar(query)
    damaged = StoreError(f"{database.name}: the snapshot of run {run_id} after event {info.seq} is damaged")
    if payload is None or _digest(run_id, info, bytes(payload)) != info.digest:
        raise damaged
    try:
        unpacked = zlib.decompressobj().decompress(bytes(payload), _MAX_PAYLOAD)
        return msgspec.msgpack.decode(unpacked, type=dict[str, bytes])
    except (zlib.error, msgspec.MsgspecError):
        raise damaged from None


def segment_started_at(database: Database, run_id: str) -> int | None:
    """Return `available_at` (UTC ms) of the first event after the last boundary, or None."""
    of_run = snapshots.c.run_id == run_id
    last = select(func.max(snapshots.c.seq)).where(of_run, snapshots.c.boundary.is_(True))
    with database.read() as connection:
        after = connection.scalar(last) or 0
        first = select(journal.c.available_at).where(journal.c.run_id == run_id, journal.c.seq > after)
        return connection.scalar(first.order_by(journal.c.seq).limit(1))


def delete_snapshots_after(database: Database, run_id: str, seq: int) -> None:
    """Delete the snapshots after event `seq`: those events are lost, and their numbers will be reused."""
    with database.write() as connection:
        connection.execute(delete(snapshots).where(snapshots.c.run_id == run_id, snapshots.c.seq > seq))


def _digest(run_id: str, info: SnapshotInfo, payload: bytes) -> str:
    head = f"{run_id} {info.seq} {info.created_at} {info.fingerprint} {info.state} {info.boundary} ".encode()
    return blake2b(head + payload, digest_size=16).hexdigest()
