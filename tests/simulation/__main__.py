"""Deterministic simulation: runs the real daemon in a simulated environment, one per seed.

    python -m tests.simulation [--seeds 10000] [--first 0] [--sleeves] [--trace] [--mutant NAME]
                               [--processes N]

The last line is the count. If an invariant is violated, the seed is printed before it and the exit code is 1.
A seed always does the same, so `--seeds 1 --first SEED --trace` shows what led to the violation.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agent.cli.console import err
from tests.simulation.runner import prepare_process, run_seeds
from tests.simulation.simulation_harness import SeedOutcome
from tests.support import mutants

_CHUNK: Final = 20  # seeds per task of a process
_TRACE: Final = 1_000_000  # lines


def run_all(given: argparse.Namespace) -> Iterator[SeedOutcome]:
    """Run the seeds in order, in the configured number of processes."""
    keep = _TRACE if given.trace else 0
    if given.processes == 1 or given.seeds <= _CHUNK:
        prepare_process(given.mutant)
        for seed in range(given.first, given.first + given.seeds):
            yield from run_seeds(seed, 1, keep, given.sleeves)
        return
    starts = iter(range(given.first, given.first + given.seeds, _CHUNK))
    end = given.first + given.seeds
    with ProcessPoolExecutor(given.processes, get_context("spawn"), prepare_process, (given.mutant,)) as pool:
        # Submit a few chunks at a time, so that a failure ends the run soon
        running = [
            pool.submit(run_seeds, start, min(_CHUNK, end - start), keep, given.sleeves)
            for start in islice(starts, 2 * given.processes)
        ]
        while running:
            yield from running.pop(0).result()
            running += [
                pool.submit(run_seeds, start, min(_CHUNK, end - start), keep, given.sleeves)
                for start in islice(starts, 1)
            ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=10_000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trace", action="store_true", help="print every step")
    parser.add_argument(
        "--mutant", default="", choices=("", *mutants.MUTANTS), help="inject this defect into the product"
    )
    parser.add_argument("--sleeves", action="store_true", help="two or three strategies in one account")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    began = time.monotonic()
    failed: SeedOutcome | None = None
    passed = events = fills = lives = 0
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("seeds"), *columns, console=err) as progress:
        task = progress.add_task("seeds", total=given.seeds)
        for outcome in run_all(given):
            if given.trace:
                print(*outcome.trace, f"fingerprint {outcome.fingerprint}", sep="\n")
            if outcome.failure:
                failed = outcome
                break
            passed += 1
            events, fills, lives = events + outcome.events, fills + outcome.fills, lives + outcome.lives
            progress.advance(task)
    if failed:
        mutant = f" --mutant {given.mutant}" if given.mutant else ""
        print(f"seed {failed.seed} broke: {failed.failure}")
        sleeves = " --sleeves" if given.sleeves else ""
        print(f"  again: python -m tests.simulation --seeds 1 --first {failed.seed} --trace{mutant}{sleeves}")
    seconds = time.monotonic() - began
    print(
        f"{lives:,} lives, {events:,} events, {fills:,} fills; "
        f"{(passed + bool(failed)) / seconds:.1f} seeds a second"
    )
    print(f"{passed} seeds held, {int(failed is not None)} broke")
    return int(failed is not None)


if __name__ == "__main__":
    sys.exit(main())
