"""Measures `tapewire sweep`: K variants over one stream against K single runs; prints one JSON line.

    python bench/sweep.py --klines BTCUSDT-1m.parquet [--sentiment FILE] [--variants 256] [--singles 8]

A sample of variants is replayed alone, each with its own reading of the files, as K runs of `tapewire
backtest` would be without their store. Their digests must equal those of the sweep. `ratio` is the CPU time
of K single runs, estimated from the sample, over that of the sweep: other programs may use the machine, which
changes wall time. With --sentiment the strategy `sentiment` trades on the scored headlines of that file.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path
from typing import Any

from agent import __version__
from agent.config import load
from agent.core import engine as engine_module
from agent.replay.batch import replay_batch
from agent.replay.history import History, Plan
from agent.research.replay_window import with_overrides


def variants_of(strategy: str, count: int) -> list[dict[str, Any]]:
    """Return `count` sets of parameters."""
    if strategy == "sentiment":
        return [
            {
                "position_size": 0.05 + 0.01 * (number % 16),
                "confidence_threshold": 0.6 + 0.02 * (number // 16),
            }
            for number in range(count)
        ]
    fasts = range(5, 5 + 16 * 3, 3)
    return [{"fast": fasts[number % 16], "slow": 60 + 20 * (number // 16)} for number in range(count)]


def main() -> None:
    """Run the sweep and the sample, and print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--klines", type=Path, required=True, action="append")
    parser.add_argument("--sentiment", type=Path)
    parser.add_argument("--variants", type=int, default=256)
    parser.add_argument("--singles", type=int, default=8)
    args = parser.parse_args()
    name = "sentiment" if args.sentiment else "sma_cross"
    plan = Plan(tuple((path, None) for path in args.klines), sentiment=args.sentiment)
    config = with_overrides(load(), {"strategy": {"name": name}}, where="bench/sweep.py")
    variants = variants_of(name, args.variants)

    def replayed(part: list[dict[str, Any]]) -> tuple[list[str], float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        history = History(plan, config)
        results = replay_batch(history, part, history.sources())
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        return [result.digest for result in results], *seconds

    replayed(variants[:1])  # file caches and imports
    step = max(1, len(variants) // args.singles)
    sample = list(range(0, len(variants), step))[: args.singles]
    singles = {at: replayed([variants[at]]) for at in sample}
    digests, wall, cpu = replayed(variants)
    equal = all(digests[at] == found[0][0] for at, found in singles.items())
    alone = sum(found[2] for found in singles.values()) / len(singles)
    print(
        json.dumps(
            {
                "benchmark": "sweep",
                "version": __version__,
                "compiled": not str(engine_module.__file__).endswith(".py"),
                "strategy": name,
                "variants": len(variants),
                "bars": History(plan, config).bars,
                "wall_seconds": round(wall, 3),
                "cpu_seconds": round(cpu, 3),
                "single_cpu_seconds": round(alone, 3),
                "ratio": round(alone * len(variants) / cpu, 2),
                "equal": equal,
                "sample": len(sample),
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                "python": platform.python_version(),
            }
        )
    )
    if not equal:
        raise SystemExit("a variant of the sweep decided otherwise than alone")


if __name__ == "__main__":
    main()
