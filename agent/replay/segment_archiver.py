"""Archiving of the finished segments of live runs; each is replayed before the store deletes its rows.

The agent runs it as a separate program when a segment ends: `python -m agent.replay.segment_archiver`, with
an `ArchiveRequest` as JSON on standard input.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agent.core.errors import SafetyError, StoreError, TapewireError
from agent.core.sleeves import engines_of
from agent.replay.engine_state import VERSION_PART, capture, fingerprint, restore, state_digest
from agent.replay.fusion_model import reopen_predictor
from agent.replay.open_engine import reopen_engine
from agent.replay.strategy_versions import StrategyVersions
from agent.replay.verify import inputs
from agent.store.archive_files import RowProgress
from agent.store.chain import BLOCK
from agent.store.comparison_sink import ComparisonSink
from agent.store.database import Database, open_database
from agent.store.journal import read_journal
from agent.store.journal_segments import boundaries, roll_over
from agent.store.lock import instance_lock
from agent.store.queries import list_runs
from agent.store.runs import JournalSegment, Run, RunKind
from agent.store.state_snapshots import SnapshotInfo, read_snapshot
from agent.system.clock import WallClock

LOCK: Final = ".rollover.lock"


def roll_over_all(
    database: Database, folder: Path, progress: RowProgress | None = None, copies: Path | None = None
) -> dict[str, list[JournalSegment]]:
    """Move the finished segments of all live runs to files in `folder`; return them by run.

    `copies` (live.folder) has the sources of strategies that may run. Raises StoreError, and SafetyError if
    another process is archiving.
    """
    folder.mkdir(parents=True, exist_ok=True)
    moved = {}
    with instance_lock(folder / LOCK):
        for run in list_runs(database):
            if run.kind is RunKind.LIVE and boundaries(database, run.id):
                check = partial(check_segment, database, copies=copies)
                if done := roll_over(database, run, folder, WallClock(), check, progress):
                    moved[run.id] = done
    return moved


def check_segment(database: Database, run: Run, end: SnapshotInfo, *, copies: Path | None = None) -> None:
    """Replay the segment that ends at `end`, from the boundary before it.

    Raises StoreError if anything differs.
    """
    try:
        _replay_segment(database, run, end, copies)
    except SafetyError as error:
        raise StoreError(f"{error.message}: its segment stays in the store", hint=error.hint) from None


def _replay_segment(database: Database, run: Run, end: SnapshotInfo, copies: Path | None) -> None:
    # the store may come from elsewhere, and no user requested to import this run's strategy
    versions = StrategyVersions(database, run, copies)
    config, _ = inputs(database, run)
    sink = ComparisonSink(database, run)
    engine = reopen_engine(config, sink, run, versions, predictor=reopen_predictor(config, run))
    current = fingerprint(config, *(one.strategy for one in engines_of(engine).values()))
    earlier = (info for info in boundaries(database, run.id) if info.seq < end.seq)
    usable = [info for info in earlier if info.fingerprint == current]
    start = 0
    if usable:  # else start from the first event: another version's state can't be restored
        parts = read_snapshot(database, run.id, usable[-1])
        restore(engine, parts["core"], parts.get(VERSION_PART, b""))
        sink.seek(*msgspec.msgpack.decode(parts["chain"], type=tuple[bytes, int]))
        start = usable[-1].seq
    for seq, event in read_journal(database, run.id, start + 1):
        if seq <= end.seq:
            sink.event_seq = seq
            engine.handle(event)
        if sink.diverged() or (seq >= end.seq and seq % BLOCK == 0):  # a block's digest is checked at its end
            break
    if sink.diverged():
        raise StoreError(
            f"run {run.id} is decided otherwise from event {sink.event_seq}: its segment stays in the store",
            hint="tapewire verify shows more; after an upgrade that changes decisions, begin a new run with "
            "tapewire run --new",
        )
    if end.fingerprint == current and state_digest(capture(engine), sink.digest, sink.decisions) != end.state:
        differs = f"the snapshot after event {end.seq} differs from the state of the replayed journal"
        hint = "please report it"
        raise StoreError(f"run {run.id}: {differs}: its segment stays in the store", hint=hint)


class ArchiveRequest(msgspec.Struct):
    """Input of the program: the store's URL, the archive's folder, and live.folder."""

    url: str
    folder: str
    copies: str = ""


def main() -> int:
    """Run at low priority; print the result as a JSON object and return the exit code."""
    os.nice(10)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ArchiveRequest)
    try:
        with closing(open_database(request.url, create=False)) as database:
            copies = Path(request.copies) if request.copies else None
            moved = roll_over_all(database, Path(request.folder), copies=copies)
    except SafetyError:
        return 0  # another process is archiving
    except TapewireError as error:
        sys.stdout.write(msgspec.json.encode({"error": error.message, "hint": error.hint}).decode() + "\n")
        return 1
    segments = [segment for done in moved.values() for segment in done]
    report = {"segments": len(segments), "events": sum(one.last - one.first + 1 for one in segments)}
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
