"""Measures the cost of syncing a commit to disk before an order is sent; prints one JSON line with ratios.

    python -m bench.commits [--batches 2000] [--folder DIR] [--against DIR [--rounds 3]]

One batch is what a live run commits before sending an order: an event in the journal, the order decided on
it, and the mark, which is kept beside the store and synced once a second. The peer is the same batch with
synchronous=NORMAL, as in paper mode. Both alternate in blocks on the same disk, which --folder selects. The
ratio is (ms with sync) / (ms without), so 1 means no cost. `mark_mean_ms` is the time for the mark alone. A
backtest commits 5,000 rows at a time and never syncs: `backtest_synchronous` is 1, which is NORMAL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parent.parent))

from agent.core.events import Kline, Order, OrderType, Side
from agent.store.commit_mark import SYNC_EVERY, CommitMark, CommitMarkFile, mark_beside
from agent.store.database import Database, open_database
from agent.store.journal import Journal
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from bench import interleaved

_T0: Final = 1_735_689_600_000
_BLOCK: Final = 50  # batches of one store before the other takes its turn


class CommitStore:
    """A store and the durations of its batches in ms."""

    def __init__(self, file: Path, *, synced: bool) -> None:
        self.database: Database = open_database(f"sqlite:///{file}")
        if synced:
            self.database.sync_commits()
        self.recorder = Recorder(self.database, Run("bench", RunKind.LIVE, _T0, "none"), batch=None)
        self.journal = Journal(self.database, "bench")
        self.mark = CommitMarkFile(mark_beside(file), sync_every=SYNC_EVERY if synced else inf)
        self.times: list[float] = []
        self.marks: list[float] = []

    def batch(self) -> None:
        """Commit one event, one order and one mark."""
        seq = self.journal.last_seq + 1
        ts = _T0 + seq
        bar = Kline("BTCUSDT", 60_000, ts, ts, ts, 43_210.1, 43_211.2, 43_209.3, 43_210.4, 12.345)
        order = Order(f"tw-{seq:032x}", "BTCUSDT", ts, Side.BUY, OrderType.MARKET, Decimal("0.010"))
        began = time.perf_counter()
        self.journal.append([bar])
        self.recorder.event_seq = seq
        self.recorder.decision(order)
        self.recorder.flush()
        committed = time.perf_counter()
        self.mark.write(
            CommitMark("bench", seq, self.journal.digest.hex(), self.recorder.decisions, self.recorder.head)
        )
        ended = time.perf_counter()
        self.times.append((ended - began) * 1000)
        self.marks.append((ended - committed) * 1000)

    def close(self) -> None:
        self.mark.close()
        self.database.close()


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, default=Path("var"))
    interleaved.add_arguments(parser)
    args = parser.parse_args()
    if args.against is not None:
        print(json.dumps(interleaved.compare(__file__, args)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=args.folder) as scratch,
        closing(CommitStore(Path(scratch) / "full.db", synced=True)) as full,
        closing(CommitStore(Path(scratch) / "normal.db", synced=False)) as normal,
        closing(open_database(f"sqlite:///{Path(scratch) / 'backtest.db'}")) as backtest,
    ):
        for _ in range(args.batches // _BLOCK):
            for side in (full, normal):
                for _ in range(_BLOCK):
                    side.batch()
        with backtest.write() as connection:
            synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    shares = {"p50": 0.5, "p99": 0.99}
    figures = {
        f"{name}_{label}_ms": round(percentile(side.times, share), 3)
        for name, side in (("full", full), ("normal", normal))
        for label, share in shares.items()
    }
    ratios = {
        f"ratio_{label}": round(figures[f"full_{label}_ms"] / figures[f"normal_{label}_ms"], 2)
        for label in shares
    }
    print(
        json.dumps(
            {
                "benchmark": "commit before sending",
                **ratios,
                "batches": len(full.times),
                **figures,
                "mark_mean_ms": {
                    "full": round(statistics.mean(full.marks), 3),
                    "normal": round(statistics.mean(normal.marks), 3),
                },
                "backtest_synchronous": synchronous,
            }
        )
    )


if __name__ == "__main__":
    main()
