"""Measures `tapewire sweep`: K variants in one pass against K times one backtest; prints one JSON object.

    python bench/sweep.py --klines BTCUSDT-1m.parquet [--sentiment FILE] [--variants 256] [--jobs 2]
        [--save bench/results]

One backtest is what `tapewire backtest` does after its start: it reads the files, replays and records. It is
measured for the middle variant three times, and the median counts; `ratio` is K times that over the sweep.
Other programs may use the machine, so `ratio_cpu` is the same of the processor's time. A sample of variants
is replayed alone: final equity, metrics and number of decisions must be equal. With --jobs the sweep is
measured a second time, over so many processes. With --sentiment, scored headlines, the strategy `sentiment`
is measured as well. --save writes `sweep.json` and `sweep.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent import __version__
from agent.config import Config, load
from agent.core import engine as engine_module
from agent.replay.backtest import CompletedBacktest, backtest
from agent.replay.batch import SweepResult, replay_batch
from agent.replay.history import History, Plan
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import with_overrides, with_params
from agent.research.sweep import sweep
from agent.store.database import open_database


class Seconds(NamedTuple):
    """How long something took."""

    wall: float
    cpu: float


class Watch:
    """Measures from its creation on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> Seconds:
        """Return the time since."""
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def variants_of(strategy: str, count: int) -> list[dict[str, Any]]:
    """Return `count` sets of parameters, 16 values of one times those of another."""
    if strategy == "sentiment":
        return [
            {
                "position_size": round(0.05 + 0.01 * (number % 16), 2),
                "confidence_threshold": round(0.6 + 0.02 * (number // 16), 2),
            }
            for number in range(count)
        ]
    return [{"fast": 5 + 3 * (number % 16), "slow": 60 + 20 * (number // 16)} for number in range(count)]


def run_alone(plan: Plan, config: Config, params: dict[str, Any]) -> tuple[CompletedBacktest, Seconds]:
    """Record one variant in a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        with closing(open_database(f"sqlite:///{folder}/runs.db")) as database:
            done = backtest(History(plan, with_params(config, params)), database)
        return done, watch.seconds()


def equal(result: SweepResult, alone: CompletedBacktest) -> bool:
    """Return whether a variant's result is that of a run alone."""
    run = alone.run
    return (result.final_equity, result.metrics, result.decisions) == (
        run.final_equity,
        alone.metrics,
        run.decisions,
    )


def measure(name: str, plan: Plan, config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one strategy."""
    config = with_overrides(config, {"strategy": {"name": name}}, where="bench/sweep.py")
    variants = variants_of(name, args.variants)
    replay_batch(history := History(plan, config), variants[:1], history.sources())  # caches and imports
    middle = variants[len(variants) // 2]
    singles = [run_alone(plan, config, middle)[1] for _ in range(3)]
    one = Seconds(*(statistics.median(column) for column in zip(*singles, strict=True)))
    watch = Watch()
    history = History(plan, config)
    results = replay_batch(history, variants, history.sources())
    took = watch.seconds()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    step = max(1, len(variants) // args.sample)
    sample = range(0, len(variants), step)[: args.sample]
    same = [equal(results[at], run_alone(plan, config, variants[at])[0]) for at in sample]
    found = {
        "strategy": name,
        "variants": len(variants),
        "bars": history.bars,
        "trades": sum(result.metrics.trades.trades for result in results),
        "one_backtest_seconds": round(one.wall, 2),
        "one_backtest_cpu_seconds": round(one.cpu, 2),
        "sweep_seconds": round(took.wall, 2),
        "sweep_cpu_seconds": round(took.cpu, 2),
        "ratio": round(len(variants) * one.wall / took.wall, 1),
        "ratio_cpu": round(len(variants) * one.cpu / took.cpu, 1),
        "peak_rss_mb": round(peak, 1),
        "sample": len(same),
        "equal": all(same),
    }
    if args.jobs > 1:
        watch = Watch()
        inputs = ReplayInputs(plan, config)
        settled = inputs._replace(plan=plan._replace(start=history.start, end=history.end))
        parallel = sweep(settled, variants, jobs=args.jobs)
        wall = watch.seconds().wall
        found |= {
            "jobs": args.jobs,
            "jobs_seconds": round(wall, 2),
            "jobs_ratio": round(len(variants) * one.wall / wall, 1),
            "jobs_equal": parallel == results,
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Return the results as a page."""
    lines = [
        "# Many variants in one pass",
        "",
        f"`python bench/sweep.py`, version {found['version']}, Python {found['python']}, "
        f"{'compiled' if found['compiled'] else 'interpreted'}, {found['cores']} cores, load "
        f"{found['load']} at the start.",
        "",
        "| strategy | variants | bars | one backtest | sweep | ratio | of CPU time | peak memory | equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        (
            f"| {row['strategy']} | {row['variants']} | {row['bars']:,} | {row['one_backtest_seconds']} s | "
            f"{row['sweep_seconds']} s | {row['ratio']} | {row['ratio_cpu']} | {row['peak_rss_mb']:.0f} MB | "
            f"{'all' if row['equal'] else 'not all'} of {row['sample']} |"
        )
        for row in found["strategies"]
    ]
    for row in found["strategies"]:
        if "jobs" in row:
            lines.append("")
            lines.append(
                f"`{row['strategy']}` over {row['jobs']} processes: {row['jobs_seconds']} s, "
                f"ratio {row['jobs_ratio']}."
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--klines", type=Path, required=True, action="append")
    parser.add_argument("--sentiment", type=Path)
    parser.add_argument("--variants", type=int, default=256)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    klines = tuple((path, None) for path in args.klines)
    found: dict[str, Any] = {
        "benchmark": "sweep",
        "version": __version__,
        "compiled": not str(engine_module.__file__).endswith(".py"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "strategies": [],
    }
    if args.sentiment:
        found["strategies"].append(measure("sentiment", Plan(klines, sentiment=args.sentiment), load(), args))
    found["strategies"].insert(0, measure("sma_cross", Plan(klines), load(), args))
    print(json.dumps(found, indent=1))
    if args.save:
        (args.save / "sweep.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.save / "sweep.md").write_text(table(found))
    for row in found["strategies"]:
        if not row["equal"] or not row.get("jobs_equal", True):
            raise SystemExit(f"a variant of {row['strategy']} decided otherwise than alone")


if __name__ == "__main__":
    main()
