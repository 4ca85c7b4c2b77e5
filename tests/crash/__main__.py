"""Kill the agent with SIGKILL again and again, and compare the result with the uninterrupted run.

    python -m tests.crash [--sleeves] [--testnet [--faults]] [--kills 300] [--seed 1] [--run N] [--cold]
                          [--minutes 400]

The real daemon runs in a process of its own with its store and threads; only the market is scripted. Most
agent processes are forked from this one, which has everything imported, so that a kill costs milliseconds.
With --cold each process is a new interpreter. The last line is the count. If anything was lost, the exit code
is 1 and the line before names the run, the kill point and the command to reproduce it.

With --testnet the agent trades at a sandbox exchange that outlives the kills, and its record is checked
against the exchange's account. With --sleeves three strategies share the account; at the exchange their parts
must add up to it. With --faults that exchange also loses responses, lags, and damages its
private stream. The market runs in real time, so a seed reproduces the same kills at almost the same moments.
The store of a loss is kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent.cli.console import err
from tests.crash.kill_points import BEGUN, ENDING, POINTS, SCHEMA, KillMoment
from tests.crash.scripted_process import ProcessSpec
from tests.crash.scripted_process import main as run_agent
from tests.crash.testnet_harness import TestnetHarness
from tests.crash.transcript_checks import Loss, Transcript, check_complete, check_prefix, read_transcript
from tests.support import mutants

PER_RUN: Final = 50  # maximum number of kills per run
MAX_LIFETIME: Final = 0.4  # seconds after which a process is killed at the latest
ROOT: Final = Path(__file__).resolve().parents[2]


def run_process(spec: ProcessSpec, *, cold: bool) -> int:
    """Run one agent process and return its exit code, negative if a signal ended it."""
    if cold:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.scripted_process", msgspec.json.encode(spec).decode()],
            cwd=ROOT,
        )
        if spec.moment.after:
            time.sleep(spec.moment.after * 15)  # includes the start of the interpreter and its imports
            process.kill()
        return process.wait()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = run_agent(spec)
        finally:
            os._exit(code)
    if spec.moment.after:
        time.sleep(spec.moment.after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def choose_kill(rng: random.Random, number: int, quota: int) -> KillMoment:
    """Choose a random time (30%) or a named point. Some points occur only in the first or the last
    process.
    """
    if number == quota - 1:
        return KillMoment(ENDING, 1)
    if rng.random() < 0.3:
        return KillMoment(after=rng.uniform(0.001, MAX_LIFETIME))
    point = rng.choice((SCHEMA, BEGUN) if number == 0 else [p for p in POINTS if p not in (SCHEMA, ENDING)])
    return KillMoment(point, rng.randint(1, POINTS[point]))


class PaperHarness:
    """Runs of one seed in paper mode. `kills` counts the kills by point."""

    def __init__(self, seed: int, folder: Path, *, cold: bool, minutes: int, sleeves: bool) -> None:
        self.kills: Counter[str] = Counter()
        self._seed = seed
        self._minutes = minutes
        self._sleeves = sleeves
        self._folder = folder
        self._cold = cold

    def run(self, number: int, quota: int, progress: Progress) -> int:
        """Run the reference and a run with up to `quota` kills; return the number of kills. Raises Loss."""
        rng = random.Random(f"{self._seed}:{number}")
        script = rng.getrandbits(32)
        home = str(self._home(number, "uninterrupted"))
        reference = ProcessSpec(home, script, self._minutes, sleeves=self._sleeves)
        if run_process(reference, cold=self._cold) != 0:
            raise Loss(f"run {number}: the uninterrupted process failed")
        uninterrupted = read_transcript(Path(reference.folder) / "store.db", reference.run_id)
        spec = msgspec.structs.replace(reference, folder=str(self._home(number, "killed")))
        store, before = Path(spec.folder) / "store.db", Transcript([], [], "", [])
        killed = 0
        while killed < quota:
            moment = choose_kill(rng, killed, quota)
            code = run_process(msgspec.structs.replace(spec, moment=moment), cold=self._cold)
            try:
                if code not in (0, -signal.SIGKILL):
                    raise Loss(f"the process ended with exit code {code}")
                now = read_transcript(store, spec.run_id)
                check_prefix(now, before, uninterrupted)
            except Loss as loss:
                raise Loss(f"run {number}, kill {killed + 1}, {moment}: {loss}") from loss
            before = now
            if code == 0:
                break
            killed += 1
            self.kills[moment.point or "any time"] += 1
            progress.advance(progress.task_ids[0])
            progress.refresh()
        try:
            if code != 0 and run_process(spec, cold=self._cold) != 0:
                raise Loss("the last process failed")
            check_complete(store, spec.run_id, uninterrupted)
        except Loss as loss:
            raise Loss(f"run {number}, after {killed} kills: {loss}") from loss
        return killed

    def _home(self, number: int, name: str) -> Path:
        home = self._folder / f"{number}-{name}"
        home.mkdir()
        return home


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--testnet", action="store_true", help="trade at a sandbox exchange that outlives the kills"
    )
    parser.add_argument("--faults", action="store_true", help="with --testnet: inject faults at the exchange")
    parser.add_argument("--run", type=int, help="only this run of the seed, to reproduce its kills")
    parser.add_argument("--minutes", type=int, default=400, help="length of a run's market in paper mode")
    parser.add_argument("--sleeves", action="store_true", help="three strategies in one account")
    parser.add_argument("--cold", action="store_true", help="start a new interpreter for each process")
    parser.add_argument(
        "--mutant",
        default="",
        choices=("", *mutants.names((*mutants.IN_STORE, *mutants.BETWEEN_LIVES))),
        help="inject this defect into the product",
    )
    given = parser.parse_args()
    if given.mutant and given.cold:
        parser.error("--mutant does not work with --cold")
    if given.testnet and given.cold:
        parser.error("--cold does not work with --testnet")
    if given.faults and not given.testnet:
        parser.error("--faults needs --testnet")
    if given.mutant in mutants.names(mutants.BETWEEN_LIVES) and not given.testnet:
        parser.error(f"{given.mutant} needs --testnet")
    if given.mutant:
        mutants.apply(given.mutant)
    # No refresh thread: threads don't survive a fork
    progress = Progress(
        TextColumn("kills"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        auto_refresh=False,
    )
    killed = lost = 0
    with tempfile.TemporaryDirectory(prefix="tapewire-crash-") as folder, progress:
        home = Path(folder)
        harness: PaperHarness | TestnetHarness
        harness = (
            TestnetHarness(given.seed, home, faulty=given.faults, sleeves=given.sleeves)
            if given.testnet
            else PaperHarness(given.seed, home, cold=given.cold, minutes=given.minutes, sleeves=given.sleeves)
        )
        progress.add_task("kills", total=given.kills)
        number = given.run or 0
        while killed < given.kills and not lost:
            quota = min(PER_RUN, given.kills - killed)
            try:
                killed += harness.run(number, quota, progress)
            except Loss as loss:
                lost = 1
                killed = harness.kills.total()
                mode = " --testnet" * given.testnet + " --faults" * given.faults
                mode += " --sleeves" * given.sleeves
                print(
                    f"LOST {loss}\n"
                    f"  again: python -m tests.crash{mode} --seed {given.seed} --run {number} --kills {quota}"
                )
                if given.testnet:
                    kept = tempfile.mkdtemp(prefix="tapewire-lost-")
                    shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
                    print(f"  its store: {kept}")
            if given.run is not None:
                break
            number += 1
    for point, count in sorted(harness.kills.items()):
        print(f"{count:>5}  {point}")
    if isinstance(harness, TestnetHarness):
        crossed = f", {harness.crossed} internal crosses" if given.sleeves else ""
        print(f"{harness.orders} orders and {harness.executions} executions at the exchange{crossed}")
    print(f"{killed} kills, {killed - lost} recovered, {lost} lost")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
