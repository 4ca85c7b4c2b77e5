"""The plainest loop of the event-sparse workload of `bench/replay.py`; prints the same JSON line.

    python bench/sparse_loop.py --bars FILE.npz

It does what the rule needs and no more: no limits, no equity at each bar, no ledger.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

SPARSE = 50
FEE, ALLOC, UNIT = 0.00055, 0.99, 1e5


def run(rows: list[tuple[int, float]], news: list[tuple[int, float]]) -> tuple[int, float]:
    """Return the number of fills and the final equity; `rows` are open time (ns) and close.

    An order that comes within a bar meets its close.
    """
    cash, units, fills, pending, size = 1_000_000.0, 0, 0, 0, 1.0 / UNIT
    number, due, last = 0, news[0][0], 0.0
    for ts, close in rows:
        while due < ts + 60_000_000_000:
            score = news[number][1]
            if score > 0.3:
                if not units and not pending:
                    pending = int(ALLOC * cash / last * UNIT) if last else 0
            elif score < -0.3 and units:
                pending = -units
            number += 1
            due = news[number][0] if number < len(news) else 1 << 62
        if pending:
            cash -= pending * size * close + abs(pending) * size * close * FEE
            units += pending
            fills += 1
            pending = 0
        last = close
    return fills, cash + units * size * last


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bars", type=Path, required=True)
    args = parser.parse_args()
    with np.load(args.bars) as data:
        rows = list(zip(data["ts"].tolist(), data["c"].tolist(), strict=True))
        news = list(zip(data["nts"][::SPARSE].tolist(), data["nscore"][::SPARSE].tolist(), strict=True))
    wall, cpu = time.perf_counter(), time.process_time()
    fills, equity = run(rows, news)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    line = {"engine": "floor-py", "version": f"CPython {platform.python_version()}", "workload": "sparse"}
    line |= {"bars": len(rows), "seconds": wall, "cpu_seconds": cpu, "bars_per_cpu_s": round(len(rows) / cpu)}
    print(json.dumps(line | {"trades": fills // 2, "fills": fills, "final_equity": round(equity, 2)}))


if __name__ == "__main__":
    main()
