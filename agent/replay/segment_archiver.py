"""Move the finished segments of live runs to files; each is decided again before the store deletes its rows.

As a separate program (`python -m agent.replay.segment_archiver`, with a JSON object on standard input) it runs beside the agent, which starts it
when a segment ends.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from agent.core.engine import Engine
from agent.core.errors import SafetyError, StoreError, TapewireError
from agent.replay.engine_state import capture, fingerprint, restore, state_digest
from agent.replay.fusion_model import reopen_predictor
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
from strategies import check_source, load_strategy

LOCK: Final = ".rollover.lock"


def roll_over_all(
    database: Database, folder: Path, progress: RowProgress | None = None
) -> dict[str, list[JournalSegment]]:
    """Move the finished segments of all live runs; returns them by run. Raises StoreError, and SafetyError if another process does it."""
    folder.mkdir(parents=True, exist_ok=True)
    moved = {}
    with instance_lock(folder / LOCK):
        for run in list_runs(database):
            if run.kind is RunKind.LIVE and boundaries(database, run.id):
                done = roll_over(
                    database,
                    run,
                    folder,
                    WallClock(),
                    lambda run, end: check_segment(database, run, end),
                    progress,
                )
                if done:
                    moved[run.id] = done
    return moved


def check_segment(database: Database, run: Run, end: SnapshotInfo) -> None:
    """Decide the segment that ends at `end` again, from the boundary before it. Raises StoreError if anything differs."""
    try:
        # no person has named this run: a store may come from somewhere else
        check_source(run.strategy, run.versions)
    except SafetyError as error:
        raise StoreError(f"{error.message}: its segment stays in the store", hint=error.hint) from None
    config, _ = inputs(database, run)
    sink = ComparisonSink(database, run)
    strategy = load_strategy(run.strategy, run.params)
    engine = Engine(
        config,
        strategy,
        sink,
        run_id=run.id,
        exchange=config.execution.exchange(),
        predictor=reopen_predictor(config, run),
        equity_block=1,
        contain_errors=True,
    )
    ours = fingerprint(config, strategy)
    usable = [
        info for info in boundaries(database, run.id) if info.seq < end.seq and info.fingerprint == ours
    ]
    start = 0
    if usable:  # else from the first event: another version's state can't be used
        parts = read_snapshot(database, run.id, usable[-1])
        restore(engine, parts["core"])
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
            f"run {run.id} would be decided otherwise from event {sink.event_seq} on: its segment stays in the store",
            hint="tapewire verify says more; after an upgrade that changes decisions begin a new run: tapewire run --new",
        )
    if end.fingerprint == ours and state_digest(capture(engine), sink.digest, sink.decisions) != end.state:
        raise StoreError(
            f"run {run.id}: the snapshot after event {end.seq} is not the state that the journal leads to: "
            "its segment stays in the store",
            hint="please report it",
        )


class Order(msgspec.Struct):
    """The program's input."""

    url: str
    folder: str


def main() -> int:
    """Run at low priority; print one JSON object per line and return the exit code."""
    os.nice(10)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        with closing(open_database(order.url, create=False)) as database:
            moved = roll_over_all(database, Path(order.folder))
    except SafetyError:
        return 0  # another process does it
    except TapewireError as error:
        sys.stdout.write(msgspec.json.encode({"error": error.message, "hint": error.hint}).decode() + "\n")
        return 1
    segments = [segment for done in moved.values() for segment in done]
    report = {"segments": len(segments), "events": sum(one.last - one.first + 1 for one in segments)}
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
